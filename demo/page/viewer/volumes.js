// Which volumes the panels show: one in the first, another or none beside it.

import { Panel } from "./panel.js";

const REMEDY = "Choose it again, or generate anew if the result has expired.";

export class Volumes {
  /** `viewer`: with `sources`, `panels`, `desk`, `toolbar`, `readout`, `openPanel` and `volumesChanged`. */
  constructor(viewer) {
    this.viewer = viewer;
    this.wanted = [0, null]; // chosen for each panel, perhaps not yet shown
    this.turn = Promise.resolve(); // opens panels one after another
  }

  /** Index of the volume that a panel shows; null without the panel. */
  shown(number) { return this.viewer.panels[number]?.volume?.index ?? null; }

  /**
   * Shows the volume `index` in the panel `number`; null closes the second panel.
   *
   * Of several choices the last counts. A file that cannot be read changes nothing but the message below the images.
   */
  async choose(number, index) {
    const { sources, toolbar, readout } = this.viewer;
    const name = index === null ? "" : sources.list[index].name;
    const current = () => this.wanted[number] === index && !this.viewer.closed;
    this.wanted[number] = index;
    readout.warn("");
    toolbar.update();
    try {
      const volume = index === null ? null : await sources.load(index);
      await this.#inTurn(() => current() && this.#show(number, volume));
    } catch (error) {
      if (!current()) return; // another was chosen meanwhile
      this.wanted[number] = this.shown(number);
      toolbar.update();
      readout.warn(`${name} cannot be shown: ${error.message}. ${REMEDY}`);
    }
  }

  #inTurn(action) {
    const turn = this.turn.then(action);
    this.turn = turn.catch(() => {}); // a failure does not stop the next
    return turn;
  }

  async #show(number, volume) {
    const { viewer } = this;
    if (this.shown(number) === (volume?.index ?? null)) return;
    const panel = viewer.panels[number];
    if (!volume) this.#close(viewer.panels.pop());
    else if (panel) panel.show(volume);
    else await this.#open(volume);
    if (!viewer.closed) viewer.volumesChanged();
  }

  /** Opens a panel; it joins the others when it is complete, since they take part in every setting. */
  async #open(volume) {
    const { viewer } = this;
    const panel = new Panel();
    viewer.desk.append(panel.element);
    try {
      await viewer.openPanel(panel, volume);
    } catch (error) {
      panel.close();
      throw error;
    }
    if (viewer.closed) return panel.close();
    viewer.panels.push(panel);
    panel.moveTo(viewer.panels[0].mm);
  }

  #close(panel) {
    panel.close();
    this.viewer.readout.withdraw(panel);
  }
}
