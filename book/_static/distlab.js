// A table or a code block that is wider than the page scrolls in itself; let the keyboard scroll it too.
function markScrollable() {
  for (const box of document.querySelectorAll(".pst-scrollable-table-container, .highlight pre, .output_area pre, .math")) {
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

window.addEventListener("load", markScrollable);
window.addEventListener("resize", markScrollable);
