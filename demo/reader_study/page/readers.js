// Readers' page: login, one volume with its questions, immediate storage of answers, next volume.
import { answerByKey, enable, review, showQuestions } from "./questions.js";

const RETRY_MS = 2000;
const NO_CONNECTION = "No connection. Please try again.";
const byId = (id) => document.getElementById(id);

let state = null; // last state from the server
let answers = {}; // answers of the current reading
let viewer = null;
let since = null; // start of the current reading time, or null
let seconds = 0; // reading time not yet sent
let saving = Promise.resolve(); // sends answers in order
let unsaved = 0;

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, body) {
  const options = { credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json", "X-Proof": state?.proof ?? "" };
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  const content = await response.json().catch(() => ({}));
  if (!response.ok) {
    const detail = typeof content.detail === "string" ? content.detail : `Server error ${response.status}.`;
    throw new Refused(response.status, detail);
  }
  return content;
}

function show(id) {
  for (const part of ["login", "study", "done"]) byId(part).hidden = part !== id;
}

function showLogin(message = "") {
  closeViewer();
  show("login");
  byId("login-message").textContent = message;
  byId("code").value = "";
  byId("code").focus();
}

async function showState(found) {
  state = found;
  document.title = state.title;
  if (!state.reading) {
    closeViewer();
    show("done");
    byId("done-message").textContent = "";
    byId("done-text").textContent = `All ${state.total} volumes are read and every answer is stored.`;
    return;
  }
  show("study");
  answers = { ...state.answers };
  byId("title").textContent = state.title;
  byId("place").textContent = `${state.position} of ${state.total}`;
  Object.assign(byId("bar"), { value: state.position - 1, max: state.total });
  showQuestions(byId("questions"), state.questions, answers, answer);
  askAgain();
  enable(byId("questions"), false);
  byId("saved").textContent = "";
  await showVolume(state.reading);
}

async function showVolume(reading) {
  closeViewer();
  veil("Loading the volume …");
  try {
    const { mountViewer } = await import("../viewer/viewer.js");
    const mounted = await mountViewer(byId("viewer"), {
      volumeUrl: new URL(state.volume, location.href).href,
      window: state.window,
      mark: state.mark,
      banner: "",
    });
    if (reading !== state?.reading || byId("study").hidden) return mounted.close();
    viewer = mounted;
  } catch (error) {
    // The questions stay disabled without a volume.
    return veil(`The volume could not be shown (${error.message}). Please load the page again.`);
  }
  veil("");
  enable(byId("questions"), true);
  startClock();
  (document.querySelector("#questions input:checked") ?? document.querySelector("#questions input")).focus();
}

function closeViewer() {
  stopClock();
  seconds = 0;
  viewer?.close();
  viewer = null;
  byId("viewer").replaceChildren();
}

function veil(text) {
  byId("veil").textContent = text;
  byId("veil").hidden = !text;
}

function answer(question, value) {
  answers[question] = value;
  const { reading } = state;
  unsaved += 1;
  byId("saved").textContent = "Storing …";
  saving = saving.then(() => store({ reading, question, answer: value }));
}

async function store(given) {
  for (;;) {
    const spent = takeSeconds();
    try {
      await ask("api/answer", { ...given, seconds: spent });
      unsaved -= 1;
      if (!unsaved) byId("saved").textContent = `Stored at ${new Date().toLocaleTimeString()}`;
      return;
    } catch (error) {
      seconds += spent;
      if (error instanceof Refused && error.status < 500) {
        unsaved -= 1;
        return void refused(error);
      }
      byId("saved").textContent = "Not stored yet: no connection. Trying again …";
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

// The session has ended, or the reading was finished elsewhere: load the state from the server.
async function refused(error) {
  if (error.status === 401) return showLogin("Your session has ended. Please log in again.");
  try {
    await showState(await ask("api/reading"));
    byId("saved").textContent = error.message;
  } catch (failed) {
    if (failed instanceof Refused && failed.status === 401) return refused(failed);
    byId("saved").textContent = NO_CONNECTION;
  }
}

function check() {
  const lacking = review(byId("given"), state.questions, answers);
  byId("lacking").textContent = lacking
    ? `${lacking} question${lacking > 1 ? "s have" : " has"} no answer. It stays empty if you go on.`
    : "";
  byId("questions").hidden = true;
  byId("review").hidden = false;
  byId("next").textContent = state.position === state.total ? "Finish" : "Next volume";
  byId("next").focus();
}

function askAgain() {
  byId("questions").hidden = false;
  byId("review").hidden = true;
}

async function next() {
  byId("next").disabled = true;
  try {
    await saving; // store all answers before the lock
    if (!byId("study").hidden && !byId("review").hidden) await lock();
  } finally {
    byId("next").disabled = false;
  }
}

async function lock() {
  const spent = takeSeconds();
  try {
    await showState(await ask("api/next", { reading: state.reading, seconds: spent }));
  } catch (error) {
    seconds += spent;
    if (error instanceof Refused && error.status < 500) await refused(error);
    else byId("saved").textContent = NO_CONNECTION;
  }
}

function startClock() {
  if (since === null && viewer && document.visibilityState === "visible") since = performance.now();
}

function stopClock() {
  if (since !== null) seconds += (performance.now() - since) / 1000;
  since = null;
}

function takeSeconds() {
  stopClock();
  const spent = seconds;
  seconds = 0;
  startClock();
  return spent;
}

async function leave() {
  await saving;
  try {
    await ask("api/logout", {});
  } catch (error) {
    if (!(error instanceof Refused && error.status === 401)) { // else the session has ended already
      for (const id of ["saved", "done-message"]) byId(id).textContent = "Logging out failed. Please try again.";
      return;
    }
  }
  state = null;
  showLogin();
}

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    await showState(await ask("api/login", { code: byId("code").value }));
  } catch (error) {
    byId("login-message").textContent = error instanceof Refused ? error.message : "No connection to the server.";
  }
  button.disabled = false;
});
byId("questions").addEventListener("submit", (event) => {
  event.preventDefault();
  check();
});
byId("back").addEventListener("click", () => {
  askAgain();
  document.querySelector("#questions input:checked, #questions input")?.focus();
});
byId("next").addEventListener("click", next);
byId("leave").addEventListener("click", leave);
byId("leave-done").addEventListener("click", leave);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") startClock();
  else stopClock();
});
document.addEventListener("keydown", (event) => {
  if (event.repeat && event.key === "Enter") return event.preventDefault(); // a held key presses one button, once
  if (event.ctrlKey || event.altKey || event.metaKey || byId("study").hidden) return;
  if (byId("viewer").contains(event.target)) return; // keys of the viewer
  if (!byId("review").hidden) {
    if (event.key === "Escape") byId("back").click();
  } else if (/^[1-9]$/.test(event.key)) {
    if (event.repeat || answerByKey(byId("questions"), Number(event.key))) event.preventDefault();
  } else if (event.key === "Enter" && event.target.type === "radio") {
    event.preventDefault();
    byId("questions").requestSubmit();
  }
});

try {
  await showState(await ask("api/reading"));
} catch (error) {
  showLogin(error instanceof Refused ? "" : "No connection to the server.");
}
