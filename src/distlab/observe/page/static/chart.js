// Lines and areas over time, drawn with SVG. A moment without a value breaks the line.
// The arrow keys and the pointer move a cursor; what it reads is told to the caller.

import { clock, shown } from "./format.js";

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const LEFT = 62, RIGHT = 10, TOP = 10, BOTTOM = 22;
export const COLOURS = 8; // a server's GPUs

// A colour and a dash of its own for each of 32 series.
export const lookOf = (n) => `s${n % COLOURS} d${Math.floor(n / COLOURS) % 4}`;

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Values at which an axis is labelled: 1, 2 or 5 times a power of ten apart; bytes, in the unit they are written in.
function ticks(low, high, most, unit) {
  if (unit === "bytes") {
    const factor = 1024 ** Math.max(0, Math.floor(Math.log2(Math.max(1, high)) / 10));
    return ticks(low / factor, high / factor, most).map((tick) => tick * factor);
  }
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

// A stack's areas lie on each other: each series with the floor that the ones before it make.
function stacked(series) {
  const floor = series.length ? series[0].values.map(() => 0) : [];
  return series.map(({ values }) => values.map((value, i) => {
    if (value === null) return null;
    const bottom = floor[i];
    floor[i] += value;
    return [bottom, floor[i]];
  }));
}

// [first, last] of each stretch of neighbouring values.
function stretches(values) {
  const found = [];
  values.forEach((value, i) => {
    if (value === null) return;
    if (i > 0 && values[i - 1] !== null) found.at(-1)[1] = i;
    else found.push([i, i]);
  });
  return found;
}

function extent(panel, bands) {
  let low = panel.minimum ?? Infinity;
  let high = panel.maximum ?? -Infinity;
  for (const band of bands) {
    for (const point of band) {
      if (point === null) continue;
      low = Math.min(low, point[0]);
      high = Math.max(high, point[1]);
    }
  }
  for (const mark of panel.thresholds) {
    if (mark.value <= high * 1.5 && mark.value >= low) high = Math.max(high, mark.value);
    if (panel.bad === "below") low = Math.min(low, mark.value);
  }
  if (low === high) {
    low -= panel.minimum === null ? 1 : 0;
    high += 1;
  }
  const room = (high - low) * 0.05;
  return [panel.minimum ?? low - room, panel.maximum === null || high > panel.maximum ? high + room : high];
}

// Draw `series` over the times of `answer` (start, step_s, points) into `box`, `width` pixels wide, with the cursor `at` a
// time or nowhere; `tell(index or null, aloud)` at each move of it.
export function draw(box, { panel, answer, series, width, label, at: before }, tell) {
  const stack = panel.kind === "stack";
  const bands = stack
    ? stacked(series)
    : series.map(({ values }) => values.map((value) => (value === null ? null : [value, value])));
  const [low, high] = extent(panel, bands);
  const last = Math.max(1, answer.points - 1);
  const x = (i) => LEFT + (i / last) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const svg = element("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", tabindex: 0, "aria-label": label, class: "chart",
  });
  for (const tick of ticks(low, high, 4, panel.unit)) {
    svg.append(
      element("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
      element("text", { class: "tick", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, shown(tick, panel.unit)),
    );
  }
  const marks = width < 450 ? 3 : 5;
  for (let n = 0; n < marks; n++) {
    const i = (n / (marks - 1)) * last;
    const anchor = n === 0 ? "start" : n === marks - 1 ? "end" : "middle";
    const time = clock(answer.start + i * answer.step_s, answer.points * answer.step_s <= 3600);
    svg.append(element("text", { class: "tick", x: x(i), y: HEIGHT - 5, "text-anchor": anchor }, time));
  }
  bands.forEach((band, n) => {
    const line = [], area = [];
    for (const [a, b] of stretches(band)) {
      const top = [], bottom = [];
      for (let i = a; i <= b; i++) {
        top.push(`${x(i).toFixed(1)} ${y(band[i][1]).toFixed(1)}`);
        bottom.unshift(`${x(i).toFixed(1)} ${y(band[i][0]).toFixed(1)}`);
      }
      // A single value between gaps is a dot.
      line.push(`M${top.join("L")}${a === b ? "h0.01" : ""}`);
      area.push(`M${[...top, ...bottom].join("L")}Z`);
    }
    const look = lookOf(n);
    if (stack) svg.append(element("path", { class: `area ${look}`, d: area.join("") }));
    svg.append(element("path", { class: `line ${look}`, d: line.join("") }));
  });
  for (const mark of panel.thresholds) {
    if (mark.value < low || mark.value > high) continue;
    svg.append(
      element("line", { class: `mark ${mark.state}`, x1: LEFT, x2: width - RIGHT, y1: y(mark.value), y2: y(mark.value) }),
      element("text", { class: "mark-name", x: width - RIGHT - 4, y: y(mark.value) - 4, "text-anchor": "end" }, mark.state),
    );
  }
  const cursor = element("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  svg.append(cursor);
  let at = answer.points - 1;
  const move = (to, aloud) => {
    at = Math.max(0, Math.min(answer.points - 1, to));
    cursor.setAttribute("x1", x(at));
    cursor.setAttribute("x2", x(at));
    cursor.setAttribute("visibility", "visible");
    tell(at, aloud);
  };
  if (before !== null) move(before, false);
  const leave = () => {
    if (!svg.isConnected) return; // it is being drawn anew
    cursor.setAttribute("visibility", "hidden");
    tell(null, false);
  };
  svg.addEventListener("pointermove", (event) => {
    const place = event.clientX - svg.getBoundingClientRect().left;
    move(Math.round(((place - LEFT) / (width - LEFT - RIGHT)) * last), false);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
    const ends = { Home: 0, End: answer.points - 1 };
    if (event.key in steps) move(at + steps[event.key], true);
    else if (event.key in ends) move(ends[event.key], true);
    else return;
    event.preventDefault();
  });
  const focused = box.contains(document.activeElement);
  box.replaceChildren(svg);
  if (focused) svg.focus({ preventScroll: true });
}
