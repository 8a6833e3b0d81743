// What has happened, and which requests took long.
import { ask, clock, el, latency, link, mark, panel, say, table } from "./dom.js";

const ELECTIONS = ["leads", "steps_down"];

/** When, with the day if that is not today. */
function when(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  return (today ? "" : `${date.toISOString().slice(5, 10)} `) + clock(date);
}

const ofNode = (row, cell) => link(cell, String(row.on), `#/nodes/${row.on}`);

/** A table of events, the newest first. */
export function eventTable() {
  const events = table("Recent events", [
    { title: "Time", class: "dim", show: (row) => when(row.time) },
    { title: "Node", show: ofNode },
    { title: "What", class: "what", show: (row, cell) => {
      const sign = cell.firstElementChild ?? cell.appendChild(el("span", { class: "event" }));
      mark(sign, "data-severity", row.severity);
      mark(cell, "title", row.text);
      say(sign, row.text);
    } },
  ], { empty: "nothing has happened" });
  return { element: events.element, update: (list) => events.update(list, (row) => `${row.on}/${row.number}/${row.time}`) };
}

/** Where the time of a request went. */
function stages(row, cell) {
  const parts = Object.entries(row.stage_micros ?? {}).sort(([, one], [, other]) => other - one);
  const text = parts.map(([name, micros]) => `${name} ${latency(micros / 1e6)}`).join(" · ");
  if (cell.title === text) return;
  const bar = el("span", { class: "stages", "aria-hidden": "true" }, parts.map(([name, micros]) => {
    const part = el("i", { class: `of-${name}` });
    part.style.width = `${Math.max(1, (micros / row.micros) * 100)}%`;
    return part;
  }));
  mark(cell, "title", text);
  cell.replaceChildren(bar, el("span", {}, text || "–"));
}

export function activity(frame, _, where) {
  let elections = true;
  const events = eventTable();
  const slow = table("Slow requests", [
    { title: "Time", class: "dim", show: (row) => when(row.time) },
    { title: "Node", show: ofNode },
    { title: "Operation", show: (row) => row.operation },
    { title: "Took", class: "num", show: (row) => latency(row.micros / 1e6) },
    { title: "Stages", class: "what", show: stages },
    { title: "Result", class: "more", show: (row, cell) => (mark(cell, "class", row.result === "ok" ? "more" : "more bad"), row.result) },
    { title: "Shard", class: "more", show: (row, cell) => (row.shard ? link(cell, String(row.shard), `#/shards/${row.shard}`) : "–") },
    { title: "Passed on to", class: "spare", show: (row) => (row.passed_on_to ? `node ${row.passed_on_to}` : "–") },
    { title: "Tries", class: "num spare", show: (row) => String(row.tries) },
    { title: "Id", class: "key spare", show: (row, cell) => (mark(cell, "title", row.request_id), row.request_id) },
  ], { empty: "no request took long" });
  const slowPanel = panel("Slow requests", slow.element);
  slowPanel.note.textContent = "as log.slow_request says what is slow";
  const box = el("input", { type: "checkbox", checked: true, onchange: () => {
    elections = box.checked;
    where.again();
  } });
  const eventPanel = panel("Recent events", events.element);
  eventPanel.note.append(el("label", {}, box, " elections, too"));
  frame.append(el("h1", {}, "Activity"), slowPanel, eventPanel);
  return {
    every: 3000,
    refresh: async (signal) => {
      const [happened, long] = await Promise.all([ask("/console/api/events", signal), ask("/console/api/slow", signal)]);
      events.update(happened.filter((row) => elections || !ELECTIONS.includes(row.kind)));
      slow.update(long.slice(0, 50), (row) => `${row.on}/${row.request_id}/${row.time}`);
    },
  };
}
