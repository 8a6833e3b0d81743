// Elements, figures as people read them, and questions to the node.
//
// Whatever comes from the cluster becomes text, never markup: keys are anybody's bytes.

/** An element: attributes by name, `on…` are listeners, children are elements or text. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets text only if it is another: what did not change keeps its selection. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute, or takes it away. */
export function mark(element, name, value) {
  if (value === undefined || value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function panel(title, ...content) {
  const note = el("p", { class: "note" });
  const head = el("div", { class: "head" }, el("h2", {}, title), note);
  return Object.assign(el("section", { class: "panel", "aria-label": title }, head, ...content), { note });
}

/**
 * A table whose rows stay the same elements from update to update, so that focus and selection stay, too.
 * Columns: `title`, `show(row, cell)` (returns text, or fills the cell itself), `class`, `sort`.
 */
export function table(title, columns, { empty = "nothing", sort } = {}) {
  const heads = columns.map((column) => {
    const content = column.sort && sort ? el("button", { type: "button", onclick: () => sort(column.sort) }, column.title) : column.title;
    return el("th", { class: column.class, scope: "col", title: column.hint }, content);
  });
  const body = el("tbody");
  const none = el("p", { class: "none", hidden: true }, empty);
  const caption = el("caption", { class: "hush" }, title);
  const whole = el("table", {}, caption, el("thead", {}, el("tr", {}, heads)), body);
  const rows = new Map();
  const update = (list, keyOf, dress) => {
    const kept = new Set();
    list.forEach((row, at) => {
      const key = keyOf(row);
      kept.add(key);
      let line = rows.get(key);
      if (!line) {
        line = el("tr", {}, columns.map((column) => el("td", { class: column.class })));
        rows.set(key, line);
      }
      columns.forEach((column, at) => {
        const text = column.show(row, line.cells[at]);
        if (text !== undefined) say(line.cells[at], text);
      });
      dress?.(row, line);
      if (body.rows[at] !== line) body.insertBefore(line, body.rows[at] ?? null);
    });
    for (const [key, line] of rows) {
      if (!kept.has(key)) {
        line.remove();
        rows.delete(key);
      }
    }
    none.hidden = list.length > 0;
  };
  const sorted = (by, ascending) => columns.forEach((column, at) => {
    mark(heads[at], "aria-sort", column.sort === by && (ascending ? "ascending" : "descending"));
  });
  return { element: el("div", {}, el("div", { class: "scroll" }, whole, none)), update, sorted };
}

/** A link in a cell, made once. */
export function link(cell, text, address) {
  const anchor = cell.firstElementChild ?? cell.appendChild(el("a"));
  say(anchor, text);
  mark(anchor, "href", address);
}

const steps = ["", " k", " M", " G", " T"];

/** A number in three digits or so. */
export function count(value) {
  let step = 0;
  while (Math.abs(value) >= 999.5 && step < steps.length - 1) {
    value /= 1000;
    step += 1;
  }
  const digits = step === 0 && Number.isInteger(value) ? 0 : value >= 99.95 ? 0 : value >= 9.995 ? 1 : value === 0 ? 0 : 2;
  return value.toFixed(digits) + steps[step];
}

/** A whole number with all of its digits. */
export const whole = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (value >= 1023.5 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Seconds of a latency. */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return `${seconds.toFixed(1)} s`;
}

export function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = parts.findIndex(([length]) => seconds >= length);
  if (at < 0) return "0 s";
  const [length, unit] = parts[at];
  const rest = parts[at + 1] && Math.floor((seconds % length) / parts[at + 1][0]);
  return `${Math.floor(seconds / length)} ${unit}` + (rest && at < 2 ? ` ${rest} ${parts[at + 1][1]}` : "");
}

export const percent = (part) => `${Math.round(part * 100)} %`;

export function clock(ms, seconds = true) {
  const date = new Date(ms);
  const two = (number) => String(number).padStart(2, "0");
  return [date.getHours(), date.getMinutes(), ...(seconds ? [date.getSeconds()] : [])].map(two).join(":");
}

/** A range of keys; both ends are text already. */
export const range = (start, end) => `${start === "" ? "start" : start} … ${end === "" ? "end" : end}`;

/** Asks the node that the page came from. */
export async function ask(path, signal) {
  const answer = await fetch(path, { signal, headers: { accept: "application/json" } });
  // An answer that breaks off, or is no longer wanted, is an error as well and no empty answer.
  if (answer.ok) return answer.json();
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.error ?? `the node answers ${answer.status}`);
}
