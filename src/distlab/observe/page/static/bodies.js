// What stands in a panel: numbers, bars, tables, and the words and legends beside charts.

import { lookOf } from "./chart.js";
import { MISSING, shown } from "./format.js";

const NS = "http://www.w3.org/2000/svg";
const IN_WORDS = 6;
const SIGNS = { ok: "✓", warning: "▲", critical: "■" };

function node(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// "ok", "warning" or "critical", where the panel has limits.
function judged(panel, value) {
  if (!panel.thresholds.length || value === null) return null;
  const passed = panel.thresholds.filter((mark) => (panel.bad === "above" ? value >= mark.value : value < mark.value));
  return ["critical", "warning"].find((name) => passed.some((mark) => mark.state === name)) ?? "ok";
}

function verdict(state) {
  return state ? [" ", node("span", { class: `state is-${state}` }, `${SIGNS[state]} ${state}`)] : [];
}

export function stats(panel, { series }) {
  return node("ul", { class: "values" }, ...series.map(({ name, values }) => {
    const state = judged(panel, values[0]);
    const number = node("b", state ? { class: `is-${state}` } : {}, shown(values[0], panel.unit));
    return node("li", {}, number, node("span", {}, name), ...verdict(state));
  }));
}

export function bars(panel, { series }) {
  return node("ul", { class: "values bars" }, ...series.map(({ name, values }) => {
    const state = judged(panel, values[0]);
    const full = panel.maximum ?? Math.max(...series.map((one) => one.values[0] ?? 0), 1e-12);
    const share = Math.max(0, Math.min(1, (values[0] ?? 0) / full));
    const bar = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      drawn("rect", { width: 100, height: 10 }), drawn("rect", { width: share * 100, height: 10 }));
    return node("li", state ? { class: `is-${state}` } : {},
      node("span", {}, `${name} `), node("b", {}, shown(values[0], panel.unit)), ...verdict(state), bar);
  }));
}

// A row a set of labels, a column a query. Labels that no row has are left out.
export function table(panel, { series }, leadsTo) {
  const keys = panel.keys.filter((key) => series.some(({ labels }) => labels[key]));
  const rows = new Map();
  for (const { query, labels, values, summary: text, runbook } of series) {
    const key = JSON.stringify(panel.keys.map((name) => labels[name] ?? ""));
    if (!rows.has(key)) rows.set(key, { labels, summary: text, runbook, cells: panel.queries.map(() => null) });
    rows.get(key).cells[query] = values[0];
  }
  const told = series.some(({ summary: text }) => text);
  const columns = keys.map((key) => node("th", { scope: "col" }, key));
  if (told) columns.splice(1, 0, node("th", { scope: "col" }, "What"));
  const head = node("tr", {}, ...columns,
    ...panel.queries.map(({ legend: name }) => node("th", { scope: "col", class: "number" }, name)));
  const body = [...rows.values()].map(({ labels, summary: text, runbook, cells }) => {
    const target = leadsTo?.(labels);
    const names = keys.map((key, place) => {
      const name = labels[key] ?? "";
      const link = target && place === keys.length - 1 ? node("a", { href: target.href, title: target.title }, name) : name;
      return place ? node("td", {}, link) : node("th", { scope: "row" }, link);
    });
    const numbers = cells.map((value, place) => (
      node("td", { class: "number" }, value === null ? "–" : shown(value, panel.queries[place].unit))
    ));
    const link = runbook ? [" ", outside(runbook, "Runbook")] : [];
    if (told) names.splice(1, 0, node("td", { class: "words" }, text ?? "", ...link));
    return node("tr", {}, ...names, ...numbers);
  });
  return scrolling(panel, node("table", {}, node("thead", {}, head), node("tbody", {}, ...body)));
}

// Rules may come from elsewhere: no address but the web's own kind is followed.
function outside(address, text) {
  const safe = /^(https?:\/\/|\/)/.test(address) ? address : "#";
  return node("a", { href: safe, target: "_blank", rel: "noopener" }, text);
}

function scrolling(panel, made) {
  return node("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${panel.title}, as a table` }, made);
}

// For a chart: each series' last value, and what it had between.
export function tableOfSeries(panel, { series }) {
  const head = node("tr", {}, node("th", { scope: "col" }, "Series"),
    ...["Now", "Lowest", "Mean", "Highest"].map((name) => node("th", { scope: "col", class: "number" }, name)));
  const rows = series.map(({ name, values }) => {
    const known = values.filter((value) => value !== null);
    const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
    const cells = [values.at(-1), Math.min(...known), mean, Math.max(...known)];
    return node("tr", {}, node("th", { scope: "row" }, name),
      ...cells.map((value) => node("td", { class: "number" }, shown(value, panel.unit))));
  });
  return node("table", {}, node("thead", {}, head), node("tbody", {}, ...rows));
}

export function legend(series, leadsTo) {
  const items = series.map(({ name, labels }, n) => {
    const look = `line ${lookOf(n)}`;
    const sample = drawn("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, drawn("path", { class: look, d: "M1 4H21" }));
    const target = leadsTo?.(labels);
    return node("li", {}, sample, target ? node("a", { href: target.href, title: target.title }, name) : name);
  });
  return node("ul", { class: "legend" }, ...items);
}

// A chart in one or two sentences.
export function summary(panel, { series }) {
  const now = series.map(({ name, values }) => ({ name, value: values.at(-1) })).filter(({ value }) => value !== null);
  const gaps = series.filter(({ values }) => {
    const first = values.findIndex((value) => value !== null);
    return values.slice(first).includes(null);
  });
  const missing = gaps.length ? ` ${gaps.length === 1 && series.length === 1 ? "It has" : `${gaps.length} of ${series.length} have`} gaps.` : "";
  if (!now.length) return `No value now.${missing}`;
  if (now.length <= IN_WORDS) return `Now ${now.map(({ name, value }) => `${name} ${shown(value, panel.unit)}`).join(", ")}.${missing}`;
  const sorted = now.toSorted((a, b) => a.value - b.value);
  const [low, high] = [sorted[0], sorted.at(-1)];
  return `Now ${now.length} series, from ${shown(low.value, panel.unit)} (${low.name}) to ${shown(high.value, panel.unit)} (${high.name}).${missing}`;
}

// What all series have at one moment.
summary.values = (panel, { series }, at) => {
  const texts = series.map(({ name, values }) => `${name} ${shown(values[at], panel.unit)}`);
  const some = texts.filter((text) => !text.endsWith(MISSING));
  if (!some.length) return MISSING;
  const left = some.length > 2 * IN_WORDS ? `, and ${some.length - 2 * IN_WORDS} more` : "";
  return some.slice(0, 2 * IN_WORDS).join(", ") + left;
};
