// A table or a code block that is wider than the page scrolls in itself; let the keyboard scroll it too.
const SCROLLABLE = ".pst-scrollable-table-container, .highlight pre, .output_area pre";
const FORMULA = 'mjx-container[display="true"]';  // has a place in the order of the keyboard already

function markScrollable() {
  document.querySelectorAll(FORMULA).forEach(markMore);
  for (const box of document.querySelectorAll(SCROLLABLE)) {
    markMore(box);
    if (box.scrollWidth > box.clientWidth + 1) {
      box.tabIndex = 0;
      if (box.matches(".pst-scrollable-table-container")) {
        box.setAttribute("role", "region");
        box.setAttribute("aria-label", "Table, scrolls sideways");
      }
    } else if (box.getAttribute("tabindex") === "0") {
      box.removeAttribute("tabindex");
    }
  }
}

// Something of it lies further to the right: the style sheet lets it fade there.
function markMore(box) {
  box.classList.toggle("has-more", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
}

window.addEventListener("load", markScrollable);
window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(markScrollable));
window.addEventListener("resize", markScrollable);
document.addEventListener("scroll", ({ target }) => {
  if (target instanceof Element && target.matches(`${SCROLLABLE}, ${FORMULA}`)) markMore(target);
}, { capture: true, passive: true });
