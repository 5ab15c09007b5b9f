// Numbers as people write them, with their units.

const SI = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const IEC = [[2 ** 40, "Ti"], [2 ** 30, "Gi"], [2 ** 20, "Mi"], [2 ** 10, "Ki"]];

export const MISSING = "no value";

function digits(value) {
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  if (size === 0) return "0";
  return Number(value.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 6 });
}

function scaled(value, steps, unit) {
  const [factor, prefix] = steps.find(([size]) => Math.abs(value) >= size) ?? [1, ""];
  return `${digits(value / factor)} ${prefix}${unit}`;
}

function seconds(value) {
  const size = Math.abs(value);
  if (size >= 120) return `${digits(value / 60)} min`;
  if (size >= 1 || size === 0) return `${digits(value)} s`;
  if (size >= 1e-3) return `${digits(value * 1e3)} ms`;
  return `${digits(value * 1e6)} µs`;
}

const UNITS = {
  count: digits,
  money: digits,
  percent: (value) => `${digits(value)}%`,
  ratio: (value) => `${digits(value * 100)}%`,
  celsius: (value) => `${digits(value)} °C`,
  watts: (value) => scaled(value, SI, "W"),
  bytes: (value) => scaled(value, IEC, "B"),
  "bytes/s": (value) => scaled(value, SI, "B/s"),
  seconds,
  hours: (value) => (Math.abs(value) < 1 ? `${digits(value * 60)} min` : `${digits(value)} h`),
  "per s": (value) => scaled(value, SI, "/s"),
};

export function shown(value, unit) {
  return value === null || value === undefined ? MISSING : UNITS[unit](value + 0); // -0 is 0
}

export function clock(time, withSeconds = true) {
  const options = { hour: "2-digit", minute: "2-digit", hour12: false };
  return new Date(time * 1000).toLocaleTimeString("en-GB", withSeconds ? { ...options, second: "2-digit" } : options);
}

export function span(seconds_) {
  if (seconds_ < 3600) return `${seconds_ / 60} minutes`;
  return seconds_ === 3600 ? "1 hour" : `${seconds_ / 3600} hours`;
}
