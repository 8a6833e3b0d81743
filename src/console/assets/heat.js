// The heat map: time from left to right, keys from top to bottom, colour for what was asked.
import { ask, bytes, clock, count, el, mark, range, say } from "./dom.js";

const METRICS = [["requests", "Requests"], ["reads", "Reads"], ["writes", "Writes"], ["bytes", "Bytes"]];
const WINDOWS = [[5, "5 min"], [15, "15 min"], [60, "1 h"], [360, "6 h"], [1440, "24 h"]];
// From nothing to the most, each even in lightness: what is asked most stands out from the ground in both themes.
const RAMPS = {
  light: ["#eef1f5", "#cfdcf7", "#8fb0ee", "#4a74dc", "#5a35b5", "#8c1d74", "#b3123f"],
  dark: ["#1d2530", "#22366b", "#3f3f9e", "#8a3fa0", "#d14f74", "#f58b4c", "#fde77a"],
};

const dark = () => {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

/** 256 colours. */
function ramp() {
  const stops = (dark() ? RAMPS.dark : RAMPS.light).map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, at) => {
    const place = (at / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((from, channel) => Math.round(from + (stops[low + 1][channel] - from) * (place - low)));
  });
}

export function heat(frame, _, where) {
  const view = { metric: "requests", minutes: 15, zooms: [] };
  let picture = null;
  let values = null;
  let sums = null;
  let most = 0;
  let cursor = null;
  let drag = null;

  const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": "Heat map", "aria-describedby": "heat-help" });
  const profile = el("canvas", { class: "sums", "aria-hidden": "true" });
  const keys = el("div", { class: "keys", "aria-hidden": "true" });
  const times = el("div", { class: "times", "aria-hidden": "true" });
  const box = el("div", { class: "mark", hidden: true });
  const span = el("div", { class: "span", hidden: true });
  const tip = el("div", { class: "tip", hidden: true });
  const spoken = el("p", { class: "hush", role: "status" });
  const plot = el("div", { class: "plot" }, canvas, span, box, tip);
  const note = el("p", { class: "note" });
  const scale = el("canvas", { width: 256, height: 1 });
  const scaleEnd = el("span");
  const out = el("button", { type: "button", onclick: () => zoomOut() }, "Zoom out");

  const choice = (label, options, name) => {
    const buttons = options.map(([value, text]) => el("button", {
      type: "button", "aria-pressed": String(view[name] === value),
      onclick: () => {
        view[name] = value;
        buttons.forEach((button, at) => mark(button, "aria-pressed", String(options[at][0] === value)));
        where.again();
      },
    }, text));
    return el("div", { class: "choice", role: "group", "aria-label": label }, buttons);
  };

  frame.append(
    el("div", { class: "head" }, el("h1", {}, "Heat map"), note),
    el("div", { class: "tools" }, choice("What is shown", METRICS, "metric"), choice("Time", WINDOWS, "minutes"), out,
      el("span", { class: "scale" }, "0", scale, scaleEnd)),
    el("section", { class: "panel", "aria-label": "Heat map" }, el("div", { class: "heat" }, keys, plot, profile, times)),
    el("p", { class: "note", id: "heat-help" }, "A band is a range of keys that is asked a lot; a diagonal is keys that are written in order. ",
      "Click a row, or drag over some, to look closer; a row of one shard opens it. With the keyboard: arrows, Enter, Backspace."),
    spoken,
  );

  const show = (value) => (view.metric === "bytes" ? `${bytes(value)}/s` : `${count(value)}/s`);
  const columns = () => picture.columns.length;
  const valueAt = (row, column) => values[column * picture.rows.length + row];

  function take(next) {
    picture = next;
    const rows = picture.rows.length;
    values = new Float64Array(rows * columns());
    sums = new Float64Array(rows);
    most = 0;
    picture.columns.forEach((cells, column) => cells.forEach(([row, value]) => {
      values[column * rows + row] = value;
      sums[row] += value;
      most = Math.max(most, value);
    }));
    // It stays where it was, as far as that is still there: who moves by the keyboard would begin anew else.
    if (cursor && rows && columns()) cursor = { row: Math.min(cursor.row, rows - 1), column: Math.min(cursor.column, columns() - 1) };
    draw();
  }

  function draw() {
    if (!picture) return;
    const rows = picture.rows.length;
    const colours = ramp();
    const cells = new ImageData(Math.max(columns(), 1), Math.max(rows, 1));
    // Logarithmic: a range that is asked a hundredth of the hottest can still be seen.
    const shade = (value) => (value > 0 ? Math.max(24, Math.round((Math.log1p((99 * value) / most) / Math.log(100)) * 255)) : 0);
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns(); column += 1) {
        cells.data.set([...colours[shade(valueAt(row, column))], 255], (row * columns() + column) * 4);
      }
    }
    const small = Object.assign(document.createElement("canvas"), { width: cells.width, height: cells.height });
    small.getContext("2d").putImageData(cells, 0, 0);
    const size = fit(canvas);
    const brush = canvas.getContext("2d");
    brush.imageSmoothingEnabled = false;
    brush.drawImage(small, 0, 0, size.width, size.height);
    drawSums(colours[150]);
    const strip = new ImageData(256, 1);
    colours.forEach((colour, at) => strip.data.set([...colour, 255], at * 4));
    scale.getContext("2d").putImageData(strip, 0, 0);
    say(scaleEnd, show(most));
    label();
    const per = picture.rows.length ? picture.rows.reduce((sum, row) => sum + row.shards, 0) : 0;
    const missing = picture.missing.length ? ` · without node ${picture.missing.join(", ")}` : "";
    say(note, `${per} of ${picture.shards} shards in ${rows} rows, ${picture.width_ms / 1000} s per column${missing}`);
    out.disabled = view.zooms.length === 0;
    place();
  }

  function fit(element) {
    const ratio = devicePixelRatio || 1;
    const width = Math.max(1, Math.round(element.clientWidth * ratio));
    const height = Math.max(1, Math.round(element.clientHeight * ratio));
    if (element.width !== width || element.height !== height) Object.assign(element, { width, height });
    return { width, height };
  }

  /** How much each row was asked over all of the time. */
  function drawSums(colour) {
    const { width, height } = fit(profile);
    const brush = profile.getContext("2d");
    brush.clearRect(0, 0, width, height);
    brush.fillStyle = `rgb(${colour.join(" ")})`;
    const top = Math.max(...sums, 0);
    const tall = height / picture.rows.length;
    sums.forEach((sum, row) => {
      if (sum > 0) brush.fillRect(0, row * tall, Math.max(1, (sum / top) * width), Math.max(1, tall - (tall > 4 ? 1 : 0)));
    });
  }

  function label() {
    const rows = picture.rows;
    const tall = canvas.clientHeight;
    const every = Math.max(1, Math.ceil(rows.length / Math.max(1, Math.floor(tall / 26))));
    const labels = rows.map((row, at) => [at, row.start === "" ? "start" : row.start]).filter(([at]) => at % every === 0);
    const widest = labels.reduce((most, [, text]) => (text.length > most.length ? text : most), "");
    keys.replaceChildren(el("span", { class: "widest" }, widest), ...labels.map(([at, text]) => {
      const line = el("span", { title: text }, text);
      line.style.top = `${Math.max(7, (at / rows.length) * tall)}px`;
      return line;
    }));
    const parts = canvas.clientWidth < 420 ? 2 : 6;
    times.replaceChildren(...Array.from({ length: parts + 1 }, (_, part) => {
      const at = picture.from_ms + (part / parts) * columns() * picture.width_ms;
      const line = el("span", {}, clock(at, view.minutes < 60));
      line.style.left = `${(part / parts) * 100}%`;
      return line;
    }));
  }

  function cellAt(event) {
    const area = canvas.getBoundingClientRect();
    const part = (value, length, cells) => Math.max(0, Math.min(cells - 1, Math.floor((value / length) * cells)));
    return {
      column: part(event.clientX - area.left, area.width, columns()),
      row: part(event.clientY - area.top, area.height, picture.rows.length),
    };
  }

  /** Puts frame and tip to the cell under the pointer, or of the keyboard. */
  function place() {
    box.hidden = tip.hidden = !cursor || !picture?.rows.length || !columns();
    if (box.hidden) return;
    const { row, column } = cursor;
    const [wide, tall] = [canvas.clientWidth / columns(), canvas.clientHeight / picture.rows.length];
    const size = { left: column * wide, top: row * tall, width: Math.max(wide, 3), height: Math.max(tall, 3) };
    for (const [name, value] of Object.entries(size)) box.style[name] = `${value}px`;
    const here = picture.rows[row];
    const next = picture.rows[row + 1]?.start ?? picture.end;
    const begin = picture.from_ms + column * picture.width_ms;
    const shards = here.shards === 1 ? `shard ${here.first}` : `${here.shards} shards, ${here.first} to ${here.last}`;
    const lines = [range(here.start, next), shards, `${clock(begin)} to ${clock(begin + picture.width_ms)}`];
    tip.replaceChildren(el("b", {}, show(valueAt(row, column))), el("div", { class: "key" }, lines[0]),
      ...lines.slice(1).map((line) => el("div", { class: "dim" }, line)));
    const right = size.left > canvas.clientWidth / 2;
    tip.style.left = right ? "" : `${size.left + wide + 12}px`;
    tip.style.right = right ? `${canvas.clientWidth - size.left + 12}px` : "";
    const low = size.top > canvas.clientHeight / 2;
    tip.style.top = low ? "" : `${size.top}px`;
    tip.style.bottom = low ? `${canvas.clientHeight - size.top - tall}px` : "";
    if (document.activeElement === canvas) say(spoken, `${show(valueAt(row, column))}, keys ${lines.join(", ")}`);
  }

  function zoom(from, to) {
    const [first, last] = [picture.rows[from], picture.rows[to]];
    if (from === to && first.shards === 1) {
      location.hash = `#/shards/${first.first}`;
      return;
    }
    view.zooms.push([first.first, last.last]);
    cursor = null;
    where.again();
  }

  function zoomOut() {
    if (view.zooms.pop()) where.again();
  }

  const rowsOf = (one, other) => [Math.min(one, other), Math.max(one, other)];

  canvas.addEventListener("pointermove", (event) => {
    if (!picture?.rows.length) return;
    cursor = cellAt(event);
    if (drag !== null && event.buttons) {
      const [from, to] = rowsOf(drag, cursor.row);
      const tall = canvas.clientHeight / picture.rows.length;
      span.hidden = from === to;
      span.style.top = `${from * tall}px`;
      span.style.height = `${(to - from + 1) * tall}px`;
    }
    place();
  });
  canvas.addEventListener("pointerdown", (event) => {
    if (picture?.rows.length) drag = cellAt(event).row;
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag === null || !picture) return;
    const [from, to] = rowsOf(drag, cellAt(event).row);
    drag = null;
    span.hidden = true;
    zoom(from, to);
  });
  canvas.addEventListener("pointerleave", () => {
    cursor = drag = null;
    span.hidden = true;
    place();
  });
  canvas.addEventListener("blur", () => {
    cursor = null;
    place();
  });
  canvas.addEventListener("keydown", (event) => {
    if (!picture?.rows.length) return;
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const move = moves[event.key];
    if (move) {
      const last = [picture.rows.length - 1, columns() - 1];
      const from = cursor ?? { row: 0, column: last[1] };
      const to = [from.row + move[0], from.column + move[1]];
      cursor = cursor ? { row: Math.max(0, Math.min(last[0], to[0])), column: Math.max(0, Math.min(last[1], to[1])) } : from;
      place();
    } else if (event.key === "Enter" && cursor) zoom(cursor.row, cursor.row);
    else if (event.key === "Backspace" || event.key === "Escape") zoomOut();
    else return;
    event.preventDefault();
  });
  new ResizeObserver(draw).observe(plot);

  return {
    every: 5000,
    theme: draw,
    refresh: async (signal) => {
      const zoomed = view.zooms.at(-1);
      const part = zoomed ? `&first=${zoomed[0]}&last=${zoomed[1]}` : "";
      take(await ask(`/console/api/heat?metric=${view.metric}&minutes=${view.minutes}${part}`, signal));
    },
  };
}
