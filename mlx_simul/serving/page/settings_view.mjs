// The options of a session: shown as the server has them, and changed while the stream is live.

import { byId, el, setText } from "./dom.mjs";
import { glossaryOf, glossaryText } from "./glossary.mjs";

// How the text of a field becomes an option's value, and back. `of` gives {value} or {problem}.
const plain = { of: (text) => ({ value: text.trim() }), text: (value) => value ?? "" };
const optional = { of: (text) => ({ value: text.trim() || null }), text: (value) => value ?? "" };
const count = {
  of: (text) =>
    /^\d+$/.test(text.trim()) ? { value: Number(text) } : { problem: "This is not a whole number." },
  text: (value) => String(value ?? 0),
};
const terms = {
  of: (text) => {
    const { glossary, problem } = glossaryOf(text);
    return problem ? { problem } : { value: glossary };
  },
  text: glossaryText,
};

const FIELDS = {
  source_language: optional,
  target_language: optional,
  policy: plain,
  history: count,
  instruction: optional,
  context: optional,
  glossary: terms,
};

export class SettingsView {
  #shown = {}; // option -> the text that the server's value gave

  // change(options): asks the server for these values.
  constructor(change) {
    this.fields = Object.entries(FIELDS).map(([name, form]) => {
      const input = byId(`option-${name}`);
      const problem = el("p", { class: "problem", id: `problem-${name}`, role: "alert" });
      problem.hidden = true;
      input.after(problem);
      input.addEventListener("change", () => {
        const { value, problem: wrong } = form.of(input.value);
        this.#say(name, wrong ?? "");
        if (wrong === undefined) change({ [name]: value });
      });
      return { name, form, input, problem };
    });
    this.fixed = byId("fixed");
  }

  draw(session, wanted, isOpen) {
    const fixed = new Set(session?.fixed ?? []);
    for (const { name, form, input } of this.fields) {
      input.disabled = session === null || fixed.has(name) || !isOpen;
      if (session === null) continue;
      const text = form.text(name in wanted ? wanted[name] : session[name]);
      // A value that is being typed stays, and so does a refused one, beside its reason.
      if (text === this.#shown[name]) continue;
      this.#shown[name] = text;
      if (document.activeElement !== input) input.value = text;
    }
    this.fixed.hidden = fixed.size === 0;
    const names = [...fixed].map((name) => name.replaceAll("_", " ")).join(", ");
    setText(this.fixed, `Fixed for this model: ${names}.`);
  }

  clear() {
    this.#shown = {};
    for (const { name } of this.fields) this.#say(name, "");
  }

  // The server refused a change. Returns whether there is a field to say so at.
  refuse(options, message) {
    const known = options.filter((name) => name in FIELDS);
    for (const name of known) this.#say(name, message);
    return known.length > 0;
  }

  // A change was taken.
  settle(options) {
    for (const name of options) if (name in FIELDS) this.#say(name, "");
  }

  #say(name, text) {
    const { input, problem } = this.fields.find((field) => field.name === name);
    problem.hidden = text === "";
    setText(problem, text);
    input.setAttribute("aria-invalid", String(text !== ""));
    if (text) input.setAttribute("aria-describedby", problem.id);
    else input.removeAttribute("aria-describedby");
  }
}
