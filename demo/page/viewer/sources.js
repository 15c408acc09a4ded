// The volumes that a viewer can show, loaded when they are first shown.

import { fetchVolume } from "./panel.js";

export class Sources {
  /** `{name, url, mark}` of the volume, of its samples and of the truth. */
  constructor({ volumeUrl, samples, truthUrl, names, mark }) {
    this.list = [
      { name: samples.length ? `${names[0]}, mean` : names[0], url: volumeUrl, mark },
      ...samples.map((url, index) => ({ name: `Sample ${index + 1}`, url, mark })),
      ...(truthUrl ? [{ name: names[1], url: truthUrl, mark: "" }] : []),
    ];
    this.truth = truthUrl ? this.list.length - 1 : null;
    this.loaded = new Map();
  }

  get count() { return this.list.length; }

  /** The volume of an index as NVImage. */
  load(index) {
    const { url } = this.list[index];
    if (!this.loaded.has(url)) this.loaded.set(url, fetchVolume(url));
    return this.loaded.get(url);
  }
}
