// The theme of the page around, copying a line, and links that lead out of the frame. The pages do without it.
"use strict";
const root = document.documentElement;
const around = (() => {
  try {
    return window.parent !== window ? window.parent.document : null;
  } catch {
    return null; // another origin, or a sandbox
  }
})();

if (around && !root.dataset.theme) {
  const follow = () => {
    const classes = around.documentElement.classList;
    const theme = classes.contains("dark") ? "dark" : classes.contains("light") ? "light" : "";
    if (theme) root.dataset.theme = theme;
  };
  follow();
  new MutationObserver(follow).observe(around.documentElement, { attributeFilter: ["class"] });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) {
    copy(button.dataset.copy).then((done) => {
      button.textContent = done ? "Copied" : "Press Ctrl+C";
    });
    return;
  }
  const out = event.target.closest("a.out");
  if (out && around) {
    // The frame may not navigate the page around it, but a link of that page may.
    event.preventDefault();
    const link = around.createElement("a");
    link.href = out.href;
    around.body.append(link);
    link.click();
    link.remove();
  }
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea"); // without HTTPS there is no clipboard to write to
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
