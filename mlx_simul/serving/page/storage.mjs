// One value kept in a browser's storage, as JSON. Without storage the page works, and forgets.

export class Kept {
  // `kind` is "sessionStorage" or "localStorage"; where they are forbidden, naming one throws.
  constructor(kind, name) {
    this.kind = kind;
    this.name = name;
  }

  load() {
    try {
      return JSON.parse(window[this.kind].getItem(this.name));
    } catch {
      return null; // forbidden, or written by another version
    }
  }

  save(value) {
    try {
      if (value === null) window[this.kind].removeItem(this.name);
      else window[this.kind].setItem(this.name, JSON.stringify(value));
    } catch {
      // Full or forbidden: a reload will not resume, everything else works.
    }
  }
}
