// Light, dark, or as the system has it; remembered for the next visit.

import { Kept } from "./storage.mjs";

const THEME = new Kept("localStorage", "mlx-simul.theme");

export function chooseTheme(select) {
  const apply = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  const saved = THEME.load();
  select.value = ["light", "dark"].includes(saved) ? saved : "";
  apply(saved);
  select.addEventListener("change", () => {
    apply(select.value);
    THEME.save(select.value || null);
  });
}
