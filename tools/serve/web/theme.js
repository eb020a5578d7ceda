// Light or dark before anything is painted. A script of its own, as modules run later.
const THEMES = ["", "light", "dark"];

/** The theme that was chosen; empty: as the system. */
function theme() {
  try {
    const kept = localStorage.getItem("geb.theme") ?? "";
    return THEMES.includes(kept) ? kept : "";
  } catch {
    return document.documentElement.dataset.theme ?? "";
  }
}

/** Shows a theme and keeps it. */
function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem("geb.theme", name);
  } catch {
    // Without storage it holds until the page is left.
  }
}

setTheme(theme());
