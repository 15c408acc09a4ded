// Form with the questions of one volume. Keys: 1 to 9 answer, arrows change, Enter continues.

/**
 * Fills `form` with the questions.
 * @param {HTMLFormElement} form
 * @param {{name: string, text: string, choices: string[]}[]} questions
 * @param {Object<string, number>} answers choice (from 1) of each answered question
 * @param {(question: string, answer: number) => void} changed
 */
export function showQuestions(form, questions, answers, changed) {
  form.replaceChildren(
    ...questions.map((question, place) => fieldset(question, place, answers[question.name])),
    element("button", { type: "submit", className: "primary", textContent: "Check my answers" }),
    element("p", { className: "quiet keys", textContent: "Keys: 1 to 9 answer, Enter checks; the viewer has its own keys." }),
  );
  form.onchange = (event) => changed(event.target.name, Number(event.target.value));
}

/** The question that a digit key answers: the one in focus, else the first without an answer. */
export function answerByKey(form, digit) {
  const sets = [...form.querySelectorAll("fieldset")];
  const open = sets.filter((set) => !set.querySelector("input:checked"));
  const set = sets.find((one) => one.contains(document.activeElement)) ?? open[0];
  const input = set?.querySelectorAll("input")[digit - 1];
  if (!input || form.querySelector("fieldset:disabled")) return false;
  input.checked = true;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  const following = sets[sets.indexOf(set) + 1];
  (following?.querySelector("input:checked") ?? following?.querySelector("input") ?? form.querySelector("button"))
    .focus();
  return true;
}

/** Enables or disables the form. */
export function enable(form, on) {
  for (const part of form.querySelectorAll("fieldset, button")) part.disabled = !on;
}

/** Lists questions and answers in `list`; returns the number of missing answers. */
export function review(list, questions, answers) {
  let lacking = 0;
  list.replaceChildren(
    ...questions.flatMap((question) => {
      const answer = answers[question.name];
      lacking += answer === undefined;
      const given = answer === undefined ? "no answer" : question.choices[answer - 1];
      return [
        element("dt", { textContent: question.text }),
        element("dd", { textContent: given, className: answer === undefined ? "error" : "" }),
      ];
    }),
  );
  return lacking;
}

function fieldset({ name, text, choices }, place, answer) {
  const set = element("fieldset");
  set.append(element("legend", { textContent: `${place + 1}. ${text}` }));
  choices.forEach((choice, index) => {
    const label = element("label");
    const input = element("input", { type: "radio", name, value: index + 1, checked: answer === index + 1 });
    label.append(input, element("kbd", { textContent: index + 1 }), element("span", { textContent: choice }));
    set.append(label);
  });
  return set;
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
