// Telemetry's page: one dashboard at a time, asked again every few seconds.
// The address after # says what is shown: #training?run=gpt&job_name=course

import { draw } from "./chart.js";
import { bars, legend, stats, summary, table, tableOfSeries } from "./bodies.js";
import { clock, span } from "./format.js";

const STALE_S = 30;
const TIERS = {
  simulated: "SIMULATED: no GPU stands behind the GPU panels; a physical model computes them. Training runs are real; " +
    "money for simulated GPUs is what real ones would cost, and nobody pays it.",
  recorded: "RECORDED: the GPU panels replay what real GPUs once did.",
};

const $ = (id) => document.getElementById(id);
const state = { told: null, board: null, chosen: {}, paused: false, answer: null, asked: 0, timer: 0, cards: new Map() };

// --- What is shown: kept in the address

function read() {
  const [id, query] = location.hash.slice(1).split("?");
  const board = state.told.boards.find((one) => one.id === id) ?? state.told.boards[0];
  const names = board.variables.map((variable) => variable.name);
  const values = [...new URLSearchParams(query ?? "")].filter(([name]) => names.includes(name));
  state.chosen = Object.fromEntries(values);
  if (board !== state.board) show(board);
  ask();
}

function address(board, values) {
  const query = new URLSearchParams(values).toString();
  return `#${board}${query ? `?${query}` : ""}`;
}

function choose(name, value) {
  const chosen = { ...state.chosen };
  delete chosen[name];
  if (value) chosen[name] = value;
  location.hash = address(state.board.id, chosen);
}

// --- The page around the panels

function show(board) {
  state.board = board;
  state.answer = null;
  document.title = `${board.title} · Telemetry · distlab`;
  $("title").textContent = board.title;
  $("about").textContent = board.description;
  for (const link of $("boards").querySelectorAll("a")) {
    if (link.hash === `#${board.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("variables").replaceChildren(...board.variables.map((variable) => {
    const select = document.createElement("select");
    select.name = variable.name;
    select.append(new Option("all", ""));
    select.addEventListener("change", () => choose(variable.name, select.value));
    const label = document.createElement("label");
    label.append(`${variable.title} `, select);
    return label;
  }));
  state.cards = new Map(board.panels.map((panel) => [panel.id, card(panel)]));
  $("grid").replaceChildren(...rows(board));
  $("panels").setAttribute("aria-busy", "true");
}

// Neighbours of a size share rows: small ones many, large ones two, wide ones none.
function rows(board) {
  const made = [];
  for (const panel of board.panels) {
    const size = panel.wide ? "wide" : ["stat", "bar"].includes(panel.kind) ? "small" : "large";
    if (size === "wide" || made.at(-1)?.dataset.size !== size) {
      made.push(Object.assign(document.createElement("div"), { className: `row ${size}` }));
      made.at(-1).dataset.size = size;
    }
    made.at(-1).append(state.cards.get(panel.id).section);
  }
  return made;
}

function card(panel) {
  const section = document.createElement("section");
  section.className = `panel ${panel.kind}`;
  section.id = panel.id;
  section.setAttribute("aria-labelledby", `${panel.id}-title`);
  const title = Object.assign(document.createElement("h3"), { id: `${panel.id}-title`, textContent: panel.title });
  const about = Object.assign(document.createElement("p"), { textContent: panel.description });
  const body = Object.assign(document.createElement("div"), { className: "body" });
  body.append(Object.assign(document.createElement("p"), { className: "empty", textContent: "Loading …" }));
  section.append(title, about, body, more(panel));
  return { section, body, rows: section.querySelector(".rows"), at: null };
}

function more(panel) {
  const details = document.createElement("details");
  const overTime = panel.kind === "line" || panel.kind === "stack";
  const rows = Object.assign(document.createElement("div"), { className: "rows scroll" });
  details.append(
    Object.assign(document.createElement("summary"), { textContent: overTime ? "Table, limits and query" : "Limits and query" }),
    rows,
  );
  if (panel.thresholds.length) {
    const list = document.createElement("ul");
    for (const { value, state: name, do: advice } of panel.thresholds) {
      const item = document.createElement("li");
      item.textContent = `${panel.bad === "above" ? "From" : "Below"} ${limit(panel, value)} (${name}): ${advice}`;
      list.append(item);
    }
    details.append(list);
  }
  if (panel.runbook) {
    const link = Object.assign(document.createElement("a"), { href: panel.runbook, target: "_blank", rel: "noopener" });
    link.textContent = "Runbook (opens in its own tab)";
    details.append(link);
  }
  for (const { expr } of panel.queries) {
    details.append(Object.assign(document.createElement("code"), { textContent: expr }));
  }
  details.addEventListener("toggle", () => fill(panel));
  return details;
}

function limit(panel, value) {
  return panel.unit === "ratio" ? `${value * 100}%` : panel.unit === "percent" ? `${value}%` : `${value}`;
}

function options(variables) {
  for (const select of $("variables").querySelectorAll("select")) {
    const wanted = state.chosen[select.name] ?? "";
    const values = [...new Set([...(variables[select.name] ?? []), ...(wanted ? [wanted] : [])])];
    const before = [...select.options].slice(1).map((option) => option.value);
    if (values.join("\n") !== before.join("\n")) {
      select.replaceChildren(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    }
    select.value = wanted;
  }
}

// --- The data

async function ask() {
  clearTimeout(state.timer);
  const asked = ++state.asked;
  const query = new URLSearchParams({ ...state.chosen, range: $("range").value });
  let answer;
  try {
    const response = await fetch(`api/board/${state.board.id}?${query}`);
    answer = [401, 403].includes(response.status)
      ? { problem: "You are signed out: load this page again." } : await response.json();
  } catch {
    answer = { problem: "The server of this page does not answer. Is it still running?" };
  }
  if (asked !== state.asked) return; // something else was chosen meanwhile
  take(answer);
  if (!state.paused) state.timer = setTimeout(ask, document.hidden ? 60_000 : state.told.refresh_s * 1000);
}

function take(answer) {
  note($("problem"), answer.problem ?? trouble(answer));
  $("grid").classList.toggle("old", Boolean(answer.problem));
  $("panels").setAttribute("aria-busy", "false");
  if (answer.problem) {
    const since = state.answer ? ` What is shown is of ${clock(state.answer.now)}.` : "";
    $("freshness").textContent = `Not live.${since}`;
    if (!state.answer) for (const empty of $("grid").querySelectorAll(".empty")) empty.textContent = "No data yet.";
    return;
  }
  state.answer = answer;
  note($("tier"), answer.source.tiers.map((tier) => TIERS[tier]).find(Boolean));
  const age = answer.source.last_sample && Math.max(0, Math.round(answer.now - answer.source.last_sample));
  $("freshness").textContent = age === null ? "There is no sample yet."
    : `Last sample ${age} s ago, at ${clock(answer.source.last_sample)}. `
      + (state.paused ? "Paused." : `Asked again every ${state.told.refresh_s} s.`);
  options(answer.variables);
  for (const panel of state.board.panels) render(panel);
}

// What is wrong with the samples, where Prometheus itself answers.
function trouble({ source, now }) {
  const { last_sample: last, exporter, readable } = source;
  if (last === null) return "Prometheus has no sample of the last hour: does the exporter run? (distlab observe export)";
  if (!exporter || now - last > STALE_S) return `The exporter does not answer Prometheus since ${clock(last)}: the lines end there.`;
  return readable ? "" : "The GPUs cannot be read now: their lines end where that began. The exporter's log says why.";
}

function note(place, text) {
  if (place.textContent !== (text ?? "")) place.textContent = text ?? "";
  place.hidden = !text;
}

function render(panel) {
  const { body } = state.cards.get(panel.id);
  const found = state.answer.panels[panel.id];
  const overTime = panel.kind === "line" || panel.kind === "stack";
  const values = found.series.some((one) => one.values.some((value) => value !== null));
  if (found.problem || !values) {
    const text = found.problem ?? panel.empty;
    body.replaceChildren(Object.assign(document.createElement("p"), { className: "empty", textContent: text }));
  } else if (overTime) {
    lines(panel, found, body);
  } else {
    const made = { stat: stats, bar: bars, table }[panel.kind];
    body.replaceChildren(made(panel, found, leadsTo(panel)));
  }
  body.querySelector(".left-out")?.remove();
  if (found.left_out) {
    const text = `${found.left_out} more series are left out: narrow the choice above.`;
    body.append(Object.assign(document.createElement("p"), { className: "left-out", textContent: text }));
  }
  fill(panel);
}

function lines(panel, found, body) {
  if (!body.querySelector(".plot")) {
    const plot = Object.assign(document.createElement("div"), { className: "plot" });
    body.replaceChildren(plot, Object.assign(document.createElement("p"), { className: "summary" }));
  }
  const [plot, line] = [".plot", ".summary"].map((part) => body.querySelector(part));
  const card_ = state.cards.get(panel.id);
  const text = summary(panel, found);
  const answer = state.answer;
  const tell = (at, aloud) => {
    card_.at = at;
    line.textContent = at === null ? text : reading(panel, answer, found, at);
    if (aloud) $("announce").textContent = line.textContent;
  };
  const label = `${panel.title}, last ${span(Number($("range").value))}. ${text} Arrow keys read values.`;
  line.textContent = text;
  draw(plot, { panel, answer, series: found.series, width: Math.max(260, body.clientWidth), label, at: card_.at }, tell);
  body.querySelector(".legend")?.remove();
  body.insertBefore(legend(found.series, leadsTo(panel)), line);
}

function reading(panel, answer, found, at) {
  return `${clock(answer.start + at * answer.step_s)}: ${summary.values(panel, found, at)}`;
}

function leadsTo(panel) {
  const board = state.told.boards.find((one) => one.id === panel.leads_to);
  if (!board) return null;
  return (labels) => {
    const names = board.variables.map((variable) => variable.name).filter((name) => labels[name]);
    return { href: address(board.id, Object.fromEntries(names.map((name) => [name, labels[name]]))), title: board.title };
  };
}

function fill(panel) {
  const { section, rows } = state.cards.get(panel.id);
  if (panel.kind !== "line" && panel.kind !== "stack") return;
  if (!state.answer || !section.querySelector("details").open) return;
  rows.replaceChildren(tableOfSeries(panel, state.answer.panels[panel.id]));
}

// --- Start

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
}

function controls() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = localStorage.getItem("mode");
  theme(kept === "light" || kept === "dark" ? kept : dark.matches ? "dark" : "light");
  $("theme").addEventListener("click", () => {
    const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("mode", name);
    theme(name);
  });
  $("pause").addEventListener("click", () => {
    state.paused = !state.paused;
    $("pause").setAttribute("aria-pressed", String(state.paused));
    if (!state.paused) ask();
    else clearTimeout(state.timer);
  });
  $("range").addEventListener("change", ask);
  document.addEventListener("visibilitychange", () => !document.hidden && !state.paused && ask());
  addEventListener("hashchange", read);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width || !state.answer) return;
    width = innerWidth;
    for (const panel of state.board.panels) render(panel);
  });
}

async function start() {
  controls();
  try {
    state.told = await (await fetch("api/boards")).json();
  } catch {
    note($("problem"), "The server of this page does not answer. Is it still running? Reload the page then.");
    return;
  }
  $("boards").replaceChildren(...state.told.boards.map((board) => {
    const item = document.createElement("li");
    item.append(Object.assign(document.createElement("a"), { href: `#${board.id}`, textContent: board.title }));
    return item;
  }));
  $("range").replaceChildren(...state.told.ranges_s.map((range) => new Option(span(range), range)));
  $("range").value = state.told.ranges_s[1];
  read();
}

start();
