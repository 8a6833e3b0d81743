// The cluster at a glance, and one node.
import { eventTable } from "./activity.js";
import { ask, bytes, clock, count, duration, el, latency, link, mark, panel, percent, range, say, svg, table, whole } from "./dom.js";

const STATES = { ready: "ready", not_ready: "not ready", silent: "silent", down: "down" };
const WORK = { shards: "workers that own shards", log: "log: writes and syncs", apply: "applier", flush: "flushes of the state" };

/** Fills a cell with a node's state: a word, a colour and a form. */
export function state(node, cell) {
  const sign = cell.firstElementChild ?? cell.appendChild(el("span", { class: "state" }));
  mark(sign, "data-state", node.state);
  mark(sign, "title", node.reason ?? undefined);
  say(sign, STATES[node.state]);
}

function meter(part, title) {
  const bar = el("i");
  bar.style.width = `${Math.min(100, part * 100)}%`;
  const mood = part > 0.97 ? "bad" : part > 0.85 ? "fair" : undefined;
  return el("span", { class: "meter", title, "data-mood": mood }, bar);
}

const loaded = (load) => (load ? load.reads + load.writes : 0);

function tile(title) {
  const figure = el("p", {}, "–");
  const small = el("small", {}, "\u00a0");
  const element = el("section", { class: "tile" }, el("h2", {}, title), figure, small);
  const set = (text, more, mood) => {
    say(figure, text);
    say(small, more);
    mark(element, "data-mood", mood);
  };
  return { element, set };
}

/** Two lines over time. */
function chart(title, names, show) {
  const body = svg("svg", { class: "chart", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" });
  const legend = el("span", { class: "legend" });
  const axis = el("div", { class: "axis", "aria-hidden": "true" });
  const peak = el("small", { "aria-hidden": "true" });
  const frame = panel(title, el("div", { class: "chart-box" }, body, peak), axis);
  frame.note.append(legend);
  const update = (moments, pick) => {
    const lines = [0, 1].map((line) => moments.map((moment) => pick(moment)[line]));
    const most = Math.max(...lines.flat().map((value) => value ?? 0), 0);
    const end = moments.at(-1)?.at_ms ?? Date.now();
    const begin = Math.min(moments[0]?.at_ms ?? end, end - 60000);
    const x = (at) => ((moments[at].at_ms - begin) / (end - begin)) * 100;
    const path = (values) => {
      let pen = "M";
      let text = "";
      values.forEach((value, at) => {
        // Where nothing was measured the line has a gap.
        if (value === null || value === undefined) pen = "M";
        else {
          text += `${pen}${x(at).toFixed(2)} ${(100 - (most ? (value / most) * 96 : 0)).toFixed(2)}`;
          pen = "L";
        }
      });
      return text;
    };
    const grid = [4, 52, 100].map((y) => svg("line", { class: "grid", x1: 0, x2: 100, y1: y, y2: y }));
    body.replaceChildren(...grid, svg("path", { class: "one", d: path(lines[0]) }), svg("path", { class: "two", d: path(lines[1]) }));
    const now = lines.map((line) => line.at(-1));
    const entry = (line) => el("span", { class: line ? "two" : "one" }, `${names[line]} `, el("b", {}, show(now[line])));
    legend.replaceChildren(entry(0), entry(1));
    say(peak, show(most));
    axis.replaceChildren(...[begin, end].map((at) => el("span", {}, clock(at, false))));
    mark(body, "aria-label", `${title}: ${names[0]} ${show(now[0])}, ${names[1]} ${show(now[1])}, highest ${show(most)}`);
  };
  return { element: frame, update };
}

const rate = (value) => (value === undefined ? "–" : `${count(value)}/s`);

export function hotTable() {
  return table("Hot shards", [
    { title: "Shard", show: (row, cell) => link(cell, String(row.shard), `#/shards/${row.shard}`) },
    { title: "Keys", class: "key fill", show: (row, cell) => (mark(cell, "title", range(row.start, row.end)), range(row.start, row.end)) },
    { title: "Leader", class: "num", show: (row) => (row.leader === null ? "none" : String(row.leader)) },
    { title: "Reads/s", class: "num", show: (row) => count(row.reads) },
    { title: "Writes/s", class: "num", show: (row) => count(row.writes) },
    { title: "Written/s", class: "num more", show: (row) => bytes(row.bytes) },
  ], { empty: "nothing was asked in the last seconds" });
}

export function overview(frame) {
  const tiles = ["Nodes", "Requests", "Written", "Slowest p99", "Shards", "Replication"].map(tile);
  const [ready, requests, written, slow, shards, replicas] = tiles;
  const load = chart("Requests per second", ["reads", "writes"], rate);
  const latencies = chart("p99 of the slowest node", ["reads", "writes"], latency);
  const figure = (show) => (node) => (node.report ? show(node.report.vitals, node.report) : "–");
  const nodes = table("Nodes", [
    { title: "Node", show: (node, cell) => link(cell, String(node.node), `#/nodes/${node.node}`) },
    { title: "State", show: state },
    { title: "Address", class: "key more", show: (node) => node.address },
    { title: "Leads", class: "num", show: figure((_, report) => whole(report.leaders)) },
    { title: "Replicas", class: "num more", show: figure((_, report) => whole(report.replicas)) },
    { title: "Requests/s", class: "num", show: figure((vitals) => count(loaded(vitals.load))) },
    { title: "Write p99", class: "num more", show: figure((vitals) => latency(vitals.write_p99)) },
    {
      title: "Busy with", class: "more", hint: "parts of the time: workers, log, applier, flushes",
      show: (node, cell) => {
        const work = node.report?.vitals.work ?? {};
        const parts = Object.entries(WORK).map(([name, text]) => meter(work[name] ?? 0, `${text}: ${percent(work[name] ?? 0)}`));
        const text = Object.keys(WORK).map((name) => `${name} ${percent(work[name] ?? 0)}`).join(", ");
        if (cell.firstElementChild?.getAttribute("aria-label") !== text) {
          cell.replaceChildren(el("span", { class: "work", role: "img", "aria-label": text }, parts));
        }
      },
    },
    { title: "CPU", class: "num spare", show: figure((vitals) => vitals.cpu.toFixed(2)), hint: "processors kept busy" },
    { title: "Memory", class: "num spare", show: figure((vitals) => bytes(vitals.memory)) },
    { title: "Disk free", class: "num spare", show: figure((vitals) => bytes(vitals.disk_free)) },
    { title: "Up for", class: "num spare", show: figure((_, report) => duration(report.uptime_seconds)) },
  ]);
  const nodePanel = panel("Nodes", nodes.element);
  const hot = hotTable();
  const hotPanel = panel("Hot shards", hot.element);
  hotPanel.note.textContent = "most asked in the last 5 s";
  const events = eventTable();
  const eventPanel = panel("Recent events", events.element);
  eventPanel.note.append(el("a", { href: "#/activity" }, "all, and slow requests"));
  frame.append(
    el("h1", { class: "hush" }, "Overview"),
    el("div", { class: "tiles" }, tiles.map((tile) => tile.element)),
    el("div", { class: "pair" }, load.element, latencies.element),
    nodePanel, el("div", { class: "pair" }, hotPanel, eventPanel),
  );
  const cluster = (now) => {
    const up = now.nodes.filter((node) => node.state === "ready").length;
    const wrong = now.nodes.filter((node) => node.state !== "ready").map((node) => `${node.node} ${STATES[node.state]}`);
    ready.set(`${up} / ${now.nodes.length}`, wrong.length ? `node ${wrong.join(", ")}` : "all ready", wrong.length ? "bad" : undefined);
    requests.set(rate(loaded(now.load)), `${count(now.load.reads)} reads · ${count(now.load.writes)} writes`);
    const sum = (pick) => now.nodes.reduce((sum, node) => sum + (node.report ? pick(node.report.vitals) : 0), 0);
    written.set(`${bytes(now.load.bytes)}/s`, `to disks ${bytes(sum((vitals) => vitals.disk_written))}/s`);
    const most = (name) => Math.max(...now.nodes.map((node) => node.report?.vitals[name] ?? -1));
    const shown = (name) => latency(most(name) < 0 ? null : most(name));
    slow.set(most("write_p99") < 0 ? shown("read_p99") : shown("write_p99"), `reads ${shown("read_p99")} · writes ${shown("write_p99")}`);
    const counts = now.shards;
    const lost = counts.without_leader;
    shards.set(whole(counts.known), lost ? `${whole(lost)} without a leader` : "all have a leader", lost ? "bad" : undefined);
    const lacking = counts.under_replicated;
    const stuck = counts.without_quorum;
    replicas.set(lacking ? whole(lacking) : "complete",
      stuck ? `${whole(stuck)} can't be written` : lacking ? "shards lack a replica" : "no shard lacks a replica",
      stuck ? "bad" : lacking ? "fair" : undefined);
    nodes.update(now.nodes, (node) => node.node, (node, line) => {
      mark(line, "data-node", node.node);
      mark(line, "data-state", node.state);
    });
    nodePanel.note.textContent = `as node ${now.asked} sees them`;
    hot.update(now.hottest, (row) => row.shard);
  };
  return {
    cluster,
    every: 5000,
    refresh: async (signal) => {
      const [moments, happened] = await Promise.all([ask("/console/api/history", signal), ask("/console/api/events", signal)]);
      events.update(happened.slice(0, 10));
      load.update(moments, (moment) => [moment.reads, moment.writes]);
      latencies.update(moments, (moment) => [moment.read_p99, moment.write_p99]);
    },
  };
}

function facts(entries) {
  return el("dl", { class: "facts" }, entries.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** One node: what it has, does and is busy with. */
export function node(frame, id) {
  const title = el("h1", {}, `Node ${id}`);
  const sign = el("span");
  const body = el("div");
  const work = el("div");
  const hot = hotTable();
  const workPanel = panel("Busy with", work);
  workPanel.note.textContent = "part of the last 5 s";
  const hotPanel = panel("Asked of this node", hot.element);
  frame.append(el("div", { class: "head" }, title, sign), panel("Figures", body), workPanel, hotPanel);
  const cluster = (now) => {
    const found = now.nodes.find((node) => String(node.node) === id);
    if (!found) {
      body.replaceChildren(el("p", { class: "none" }, "there is no such node"));
      return;
    }
    state(found, sign);
    const report = found.report;
    if (!report) {
      body.replaceChildren(facts([["Address", found.address], ["State", STATES[found.state]], ["Reason", found.reason ?? ""]]));
      work.replaceChildren();
      hot.update([], (row) => row.shard);
      return;
    }
    const vitals = report.vitals;
    body.replaceChildren(facts([
      ["Address", found.address], ["Status port", found.status_address], ["Release", report.version],
      ["Up for", duration(report.uptime_seconds)], ["Ready", found.reason ? `no: ${found.reason}` : "yes"],
      ["Leads", whole(report.leaders)], ["Replicas", whole(report.replicas)], ["Of which rest", whole(report.resting)],
      ["Lacking a replica", whole(report.under_replicated)],
      ["Reads", `${count(vitals.load.reads)}/s`], ["Writes", `${count(vitals.load.writes)}/s`],
      ["Read p50 · p99", `${latency(vitals.read_p50)} · ${latency(vitals.read_p99)}`],
      ["Write p50 · p99", `${latency(vitals.write_p50)} · ${latency(vitals.write_p99)}`],
      ["Errors · busy", `${count(vitals.errors)}/s · ${count(vitals.busy)}/s`],
      ["In flight", whole(vitals.in_flight)], ["Commands waiting", whole(vitals.pending)],
      ["Apply lag", `${whole(vitals.apply_lag)} entries`], ["Snapshots under way", whole(vitals.snapshots)],
      ["Changes of leaders", `${count(vitals.leader_changes)}/s`],
      ["CPU", `${vitals.cpu.toFixed(2)} cores`],
      ["Memory", bytes(vitals.memory) + (vitals.memory_limit ? ` of ${bytes(vitals.memory_limit)}` : "")],
      ["Disk free", `${bytes(vitals.disk_free)} of ${bytes(vitals.disk_size)}`], ["Written to disk", `${bytes(vitals.disk_written)}/s`],
    ]));
    work.replaceChildren(facts(Object.entries(WORK).map(([name, text]) => {
      const part = vitals.work[name];
      return [text, el("span", {}, percent(part), meter(part, text))];
    })));
    hot.update(report.hottest.slice(0, 10), (row) => row.shard);
  };
  return { cluster };
}
