"use strict";
/* What every page has: the theme that a reader chose, all of it on paper, and a word where a table goes on. */
(() => {
  const KEY = "seqbench-theme";
  const root = document.documentElement;

  // A page from disk may be refused its storage; then each page begins with the system's theme.
  function stored() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  const chosen = stored();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  function choose(theme) {
    root.dataset.theme = theme;
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // this page alone then
    }
  }

  // Links to a section leave room for the navigation, of one line or two.
  addEventListener("DOMContentLoaded", () => {
    const nav = document.querySelector("nav");
    if (!nav) return;
    const leaveRoom = () => { root.style.scrollPaddingTop = `${nav.offsetHeight + 8}px`; };
    leaveRoom();
    addEventListener("resize", leaveRoom);
  });

  // Safari has no styles for the content of closed details: they are opened while the page prints.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });

  function tellMore(wide) {
    const hint = document.createElement("p");
    hint.className = "more";
    hint.textContent = "more columns →";
    hint.setAttribute("aria-hidden", "true"); // a screen reader reads the whole table
    wide.before(hint);
    const update = () => {
      const more = wide.scrollWidth - wide.clientWidth - wide.scrollLeft > 2;
      wide.classList.toggle("cut", more);
      hint.classList.toggle("shown", more);
      hint.hidden = wide.scrollWidth - wide.clientWidth <= 2;
    };
    wide.addEventListener("scroll", update, { passive: true });
    new ResizeObserver(update).observe(wide);
    update();
  }

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const dark = matchMedia("(prefers-color-scheme: dark)");
    button.hidden = false;
    button.addEventListener("click", () => {
      const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
      choose(now === "dark" ? "light" : "dark");
    });
    document.querySelectorAll(".wide").forEach(tellMore);
  });
})();
