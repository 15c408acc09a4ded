// The volumes that a viewer can show, loaded when they are first shown.

import { fetchVolume } from "./panel.js";

export class Sources {
  /** `{index, name, title, url, mark, generated}` of the volume, of its samples and of the truth. */
  constructor({ volumeUrl, samples, truthUrl, names, mark }) {
    const list = [
      { name: samples.length ? `${names[0]}, mean` : names[0], url: volumeUrl, mark, generated: true },
      ...samples.map((url, index) => ({ name: `Sample ${index + 1}`, url, mark, generated: true })),
      ...(truthUrl ? [{ name: names[1], url: truthUrl, mark: "", generated: false }] : []),
    ];
    // a single volume needs no title
    this.list = list.map((entry, index) => ({ ...entry, index, title: list.length > 1 ? entry.name : "" }));
    this.truth = truthUrl ? list.length - 1 : null;
    this.loaded = new Map();
  }

  get count() { return this.list.length; }

  /** The entry of an index with its `image`, a NVImage. Throws if the request fails; the next call asks again. */
  async load(index) {
    const entry = this.list[index];
    if (!this.loaded.has(index)) {
      const loading = fetchVolume(entry.url);
      loading.catch(() => this.loaded.delete(index));
      this.loaded.set(index, loading);
    }
    return { ...entry, image: await this.loaded.get(index) };
  }
}
