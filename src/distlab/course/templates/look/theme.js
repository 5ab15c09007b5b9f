// Light or dark is one choice for the Hub and the book, which keeps it as "mode" and "theme". Loaded before
// JupyterHub's darkmode.js, which applies "jupyterhub-bs-theme" and changes it at the toggle.
"use strict";
const mode = localStorage.getItem("mode");
if (mode === "light" || mode === "dark") {
  localStorage.setItem("jupyterhub-bs-theme", mode);
} else if (mode === "auto") {
  localStorage.removeItem("jupyterhub-bs-theme");
}
window.addEventListener("DOMContentLoaded", () => {
  document.getElementById("dark-theme-toggle").addEventListener("click", () => {
    setTimeout(() => {
      const theme = document.documentElement.getAttribute("data-bs-theme");
      localStorage.setItem("mode", theme);
      localStorage.setItem("theme", theme);
    });
  });
});
