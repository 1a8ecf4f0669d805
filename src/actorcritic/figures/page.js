"use strict";
(() => {
  const element = (kind, parent, className, text) => {
    const e = parent.appendChild(document.createElement(kind));
    if (className) e.className = className;
    if (text !== undefined) e.textContent = text;
    return e;
  };
  const number = (v, digits = 4) => v.toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");

  // ------------------------------------------------------------------ charts

  const FONT = '12px -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif';
  const UNITS = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const everything = [];  // every chart on the page, to be drawn again in other colours

  // A colour of the page, which follows the reader's light or dark setting.
  const colour = (c) => c.startsWith("var(") ? getComputedStyle(document.documentElement).getPropertyValue(c.slice(4, -1)).trim() : c;

  // A number on an axis, as in the pictures: 500, 20k, 1.5M.
  function short(v) {
    if (v === null) return "";
    const [unit, name] = UNITS.find(([u]) => Math.abs(v) >= u) || [1, ""];
    return (String(+(v / unit).toPrecision(6)) + name).replace("-", "−");
  }

  // Ticks of a logarithmic axis: decades, and three times those where they are few.
  function decades(low, high) {
    const ticks = [], wide = Math.log10(high / low) > 5;
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const m of wide ? [1] : [1, 3]) {
        const v = +`${m}e${e}`;
        if (v >= low && v <= high) ticks.push(v);
      }
    return ticks;
  }

  // The columns that uPlot draws, and what each of them is.
  function columns(panel, view, seconds) {
    const tables = [], parts = [];
    for (const s of view.series) {
      const x = panel.xs[s.x], at = seconds ? x.map((v) => v * s.seconds) : x;
      tables.push([at, s.y, ...(s.low ? [s.low, s.high] : [])]);
      parts.push({ s, role: "y" });
      if (s.low) parts.push({ s, role: "low" }, { s, role: "high" });
    }
    const same = !seconds && view.series.every((s) => s.x === view.series[0].x);
    return [same ? [tables[0][0], ...tables.flatMap((t) => t.slice(1))] : uPlot.join(tables), parts];
  }

  function extent(values, log) {
    let low = Infinity, high = -Infinity;
    for (const v of values.flat())
      if (v !== null && v !== undefined && (!log || v > 0)) { low = Math.min(low, v); high = Math.max(high, v); }
    return low <= high ? [low, high] : [log ? 1 : 0, log ? 10 : 1];
  }

  function series({ s, role }) {
    const stroke = () => colour(s.colour), one = s.y.filter((v) => v !== null).length === 1;
    if (role !== "y") return { label: s.label, stroke: "transparent", width: 0, points: { show: false } };
    const dots = s.look === "dots", size = s.look === "bars" ? 9 : dots && one ? 11 : 6;
    return {
      label: s.label,
      stroke: dots ? undefined : s.look === "thin" ? () => colour(s.colour) + "66" : stroke,
      width: s.look === "thin" ? 0.7 : s.look === "dashed" ? 1.2 : 2,
      dash: s.look === "dashed" ? [5, 4] : undefined,
      paths: dots ? () => null : undefined,
      points: {
        show: dots || one || s.look === "marked" || s.look === "bars",
        size, width: 0, fill: dots && s.many ? () => colour(s.colour) + "77" : stroke,
      },
    };
  }

  function start(plot) {
    const figure = JSON.parse(plot.querySelector("script").textContent), live = element("div", plot, "live");
    const views = figure.panels[0].views, all = figure.panels.flatMap((p) => p.views.flatMap((v) => v.series));
    const id = plot.closest("figure").id, hidden = new Set();
    for (const s of all) s.many = all.filter((o) => o.label === s.label).length > figure.panels.length * views.length;
    const timed = views[0].series.every((s) => s.seconds);
    const few = views[0].series.filter((s) => s.low).length <= 5;  // of more, each alone says more
    const state = { across: views[0].across, smoothing: views[0].smoothing, seeds: few, bands: few };
    const SECONDS = "seconds of training, all seeds";
    let charts = [];

    // -- what can be chosen

    const controls = element("div", live, "controls");
    function choice(name, key, options) {
      if (options.length < 2) return;
      const select = element("select", element("label", controls, "", name + " "));
      for (const o of options) element("option", select, "", o).value = o;
      select.value = state[key];
      select.addEventListener("change", () => { state[key] = select.value; draw(); });
    }
    const unique = (key) => [...new Set(views.map((v) => v[key]))];
    choice("Against", "across", [...unique("across"), ...(timed ? [SECONDS] : [])]);
    choice("Smoothing", "smoothing", unique("smoothing").sort((a, b) => (parseInt(a.match(/\d+/)) || 0) - (parseInt(b.match(/\d+/)) || 0)));
    function tick(name, key, change) {
      const box = element("input", element("label", controls));
      box.type = "checkbox";
      box.checked = state[key];
      box.parentElement.append(name);
      box.addEventListener("change", () => { state[key] = box.checked; change(); });
    }
    if (all.some((s) => s.look === "thin")) tick("Seeds", "seeds", () => show());
    if (all.some((s) => s.low && s.look !== "bars")) tick("Intervals", "bands", () => draw());
    const button = (parent, text, act, className) => {
      const b = element("button", parent, className, text);
      b.type = "button";
      b.addEventListener("click", act);
      return b;
    };

    // -- the legend: one entry a name, to be shown and hidden

    const names = new Map();
    for (const s of all) if (!s.part && !names.has(s.label)) names.set(s.label, s);
    const legend = element("div", live, "legend");
    if (names.size > 1)
      for (const [label, s] of names) {
        const b = element("button", legend);
        b.type = "button";
        element("i", b).style.background = s.colour;
        b.append(label);
        b.setAttribute("aria-pressed", "true");
        b.addEventListener("click", () => {
          if (!hidden.delete(label)) hidden.add(label);
          b.setAttribute("aria-pressed", String(!hidden.has(label)));
          show();
        });
      }

    // What lines and bands are, of those that are seen; then what the picture's own note says.
    function describe() {
      const seen = charts[0].view.note.split(" · ").filter((t) => (state.seeds || !t.startsWith("thin")) && (state.bands || !t.startsWith("band")));
      const own = plot.parentElement.querySelector(":scope > .note");
      note.textContent = [seen.join(" · "), own ? own.textContent : ""].filter((t) => t).join(" ");
    }

    const visible = (s) => !hidden.has(s.part || s.label) && (state.seeds || s.look !== "thin");
    function show() {
      for (const u of charts) u.batch(() => u.parts.forEach(({ s }, i) => u.setSeries(i + 1, { show: visible(s) })));
      describe();
    }

    // -- panels

    const panels = element("div", live, figure.panels.length > 2 ? "panels many" : "panels");
    const below = element("div", live, "below"), note = element("p", below, "note");
    button(below, "+", () => charts.forEach((u) => zoom(u, 0.5)), "touch").setAttribute("aria-label", "Zoom in");
    button(below, "−", () => charts.forEach((u) => zoom(u, 2)), "touch").setAttribute("aria-label", "Zoom out");
    const reset = button(below, "Reset zoom", () => charts.forEach(whole));
    button(below, "Data (CSV)", () => save(new Blob([csv()], { type: "text/csv" }), "csv"));
    button(below, "Picture (PNG)", () => picture().toBlob((blob) => save(blob, "png")));
    const box = element("div", live, "values");
    box.setAttribute("role", "status");
    box.hidden = true;
    const frames = figure.panels.map((p) => {
      const frame = element("div", panels, "panel");
      element("h4", frame, "", p.name);
      frame.tabIndex = 0;
      frame.setAttribute("role", "group");
      frame.setAttribute("aria-label", `${p.name || "Chart"}. Arrow keys read the values, plus and minus zoom, 0 shows all.`);
      frame.addEventListener("keydown", (event) => key(event, frame));
      frame.addEventListener("focusout", () => hide());
      return frame;
    });
    const sizes = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const u = target.chart, width = Math.floor(target.clientWidth);
        if (u && width && width !== u.width) u.setSize({ width, height: height(width) });
      }
    });
    frames.forEach((f) => sizes.observe(f));
    const height = (width) => figure.panels.length > 2 ? 180 : Math.round(Math.min(320, Math.max(230, 0.45 * width)));

    function draw() {
      hide();
      charts.forEach((u) => { everything.splice(everything.indexOf(u), 1); u.destroy(); });
      const seconds = state.across === SECONDS, across = seconds ? views[0].across : state.across;
      charts = figure.panels.map((p, k) => {
        const view = p.views.find((v) => v.across === across && v.smoothing === state.smoothing) || p.views[0];
        return chart(frames[k], p, view, seconds);
      });
      everything.push(...charts);
      describe();
      reset.hidden = true;
    }

    function chart(frame, panel, view, seconds) {
      const [data, parts] = columns(panel, view, seconds), first = view === panel.views[0];
      const ys = extent(parts.flatMap(({ s, role }, i) => role === "y" ? [data[i + 1]] : []), panel.log[1]);
      const limits = {
        x: first && !seconds ? panel.limits.x : extent([data[0]], panel.log[0]),
        y: first ? panel.limits.y : [Math.min(ys[0], panel.limits.y[0]), Math.max(ys[1], panel.limits.y[1])],
      };
      const axis = (k, more) => ({
        stroke: () => colour("var(--faint)"), font: FONT, labelFont: FONT, ticks: { show: false },
        grid: { stroke: () => colour("var(--grid)"), width: 1 }, space: k ? 32 : 62, gap: k ? 6 : 4,
        values: (u, splits) => splits.map(short),
        ...(panel.log[k] ? { splits: (u, i, low, high) => decades(low, high), filter: (u, splits) => splits } : {}),
        ...more,
      });
      const named = panel.ticks.length ? {
        splits: () => panel.ticks.map((t) => t[1]), values: () => panel.ticks.map((t) => t[0]), filter: (u, s) => s,
      } : {};
      const scale = (k, key) => ({ time: false, distr: panel.log[k] ? 3 : 1, auto: false, range: (u, low, high) => key === "y" || low === null ? limits[key] : [low, high] });
      const width = Math.floor(frame.clientWidth) || 300;
      const bands = parts.flatMap(({ s, role }, i) =>
        state.bands && role === "high" && s.look !== "bars" ? [{ series: [i + 1, i], fill: () => colour(s.colour) + "38" }] : []);
      const u = new uPlot({
        width, height: height(width), legend: { show: false }, padding: [8, 10, 0, 0],
        scales: { x: scale(0, "x"), y: scale(1, "y") },
        axes: [
          axis(0, { label: seconds ? SECONDS : view.across, labelSize: 20, size: 26, labelGap: 2, ...named }),
          axis(1, { size: (u, values) => 12 + 7 * Math.max(0, ...(values || []).map((v) => v.length)) }),
        ],
        series: [{}, ...parts.map((part) => ({ ...series(part), scale: "y", show: visible(part.s), auto: false }))],
        bands,
        cursor: {
          y: false, drag: { x: true, y: true, uni: 30, dist: 6 },
          points: { size: 7, show: (u, i) => parts[i - 1].role === "y" && parts[i - 1].s.look !== "thin" && !parts[i - 1].s.many && element("div", u.over, "u-cursor-pt") },
          dataIdx: nearest,
          bind: { dblclick: () => () => charts.forEach(whole) },
        },
        hooks: { setCursor: [follow], setScale: [together], drawAxes: [marks] },
      }, data, frame);
      Object.assign(u, { parts, panel, view, limits, frame });
      frame.chart = u;
      whole(u);
      return u;
    }

    // The nearest x at which a curve has a value, no further than a few pixels.
    function nearest(u, i, at) {
      const y = u.data[i];
      if (i === 0 || y[at] != null) return at;
      let best = null, least = 14;
      for (let j = 0; j < y.length; j++) {
        if (y[j] == null) continue;
        const d = Math.abs(u.valToPos(u.data[0][j], "x") - u.cursor.left);
        if (d < least) { best = j; least = d; }
      }
      return best;
    }

    function marks(u) {
      const { ctx, bbox } = u, ratio = devicePixelRatio;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      for (const [text, y] of u.panel.marks) {
        const at = u.valToPos(y, "y", true);
        ctx.strokeStyle = ctx.fillStyle = colour("var(--faint)");
        ctx.lineWidth = ratio;
        ctx.setLineDash([5 * ratio, 4 * ratio]);
        ctx.beginPath();
        ctx.moveTo(bbox.left, at);
        ctx.lineTo(bbox.left + bbox.width, at);
        ctx.stroke();
        ctx.font = FONT.replace("12px", 12 * ratio + "px");
        ctx.textAlign = "left";
        ctx.textBaseline = "top";
        ctx.fillText(text, bbox.left + 5 * ratio, at + 4 * ratio);
      }
      ctx.setLineDash([]);
      for (const { s } of u.parts) {
        if (s.look !== "bars" || !s.low || !visible(s)) continue;
        ctx.strokeStyle = colour(s.colour);
        ctx.lineWidth = 3 * ratio;
        u.panel.xs[s.x].forEach((x, i) => {
          if (s.low[i] === null) return;
          const at = u.valToPos(x, "x", true);
          ctx.beginPath();
          ctx.moveTo(at, u.valToPos(s.low[i], "y", true));
          ctx.lineTo(at, u.valToPos(s.high[i], "y", true));
          ctx.stroke();
        });
      }
      ctx.restore();
    }

    // -- values at the pointer

    function hide() {
      box.hidden = true;
    }

    function follow(u) {
      const { left, idx, idxs } = u.cursor;
      for (const other of charts)
        if (other !== u && u.cursor.event && other.cursor.left !== left) other.setCursor({ left, top: -10 }, false);
      if (!(left >= 0) || idx === null) return hide();
      const rows = u.parts.flatMap(({ s, role }, i) =>
        role === "y" && s.look !== "thin" && !s.many && visible(s) && idxs[i + 1] != null && u.data[i + 1][idxs[i + 1]] != null ? [[s, i + 1, idxs[i + 1]]] : []);
      if (!rows.length) return hide();
      box.replaceChildren();
      const x = u.data[0][idx], tick = u.panel.ticks.find((t) => t[1] === x);
      element("div", box, "", `${u.axes[0].label}: ${tick ? tick[0] : number(x, 6)}`);
      const table = element("table", box);
      for (const [s, i, at] of rows) {
        const row = element("tr", table), head = element("th", row);
        element("i", head).style.background = s.colour;
        head.append(s.label);
        element("td", row, "", number(u.data[i][at]));
        const low = s.low && u.data[i + 1][at], high = s.low && u.data[i + 2][at];
        element("td", row, "", low != null && high != null ? `${number(low)} to ${number(high)}` : "");
      }
      box.hidden = false;
      const frame = plot.getBoundingClientRect(), area = u.over.getBoundingClientRect();
      const from = area.left - frame.left + left, wide = plot.clientWidth;
      const room = from + 14 + box.offsetWidth <= wide ? from + 14 : from - 14 - box.offsetWidth;
      box.style.left = Math.max(0, Math.min(room, wide - box.offsetWidth)) + "px";
      // A box as wide as the panel would hide it: then it stands below.
      const below = box.offsetWidth > area.width / 2;
      box.style.top = area.top - frame.top + (below ? area.height + 4 : 4) + "px";
    }

    // -- zoom

    const near = (a, b) => Math.abs(a - b) <= 1e-9 * (Math.abs(a) + Math.abs(b));
    const zoomed = (u) => ["x", "y"].some((k) => !near(u.scales[k].min, u.limits[k][0]) || !near(u.scales[k].max, u.limits[k][1]));

    function together(u, key) {
      if (!charts.includes(u)) return;
      if (key === "x") {
        const { min, max } = u.scales.x;
        for (const other of charts)
          if (other !== u && (other.scales.x.min !== min || other.scales.x.max !== max)) other.setScale("x", { min, max });
      }
      reset.hidden = !charts.some(zoomed);
    }

    function whole(u) {
      u.batch(() => {
        u.setScale("x", { min: u.limits.x[0], max: u.limits.x[1] });
        u.setScale("y", { min: u.limits.y[0], max: u.limits.y[1] });
      });
    }

    function zoom(u, factor) {
      const wide = u.over.clientWidth, middle = u.cursor.left >= 0 ? u.cursor.left : wide / 2;
      const low = Math.max(u.limits.x[0], u.posToVal(middle - factor * middle, "x"));
      const high = Math.min(u.limits.x[1], u.posToVal(middle + factor * (wide - middle), "x"));
      u.setScale("x", { min: low, max: high });
    }

    function key(event, frame) {
      const u = frame.chart, wide = u.over.clientWidth, at = u.cursor.left >= 0 ? u.cursor.left : wide / 2;
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) u.setCursor({ left: Math.max(0, Math.min(wide, at + (u.cursor.left >= 0 ? move * wide / 50 : 0))), top: 10 });
      else if (event.key === "+" || event.key === "=") zoom(u, 0.5);
      else if (event.key === "-") zoom(u, 2);
      else if (event.key === "0") charts.forEach(whole);
      else if (event.key === "Escape") hide();
      else return;
      event.preventDefault();
    }

    // -- what can be taken away

    function save(blob, ending) {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${id}.${ending}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }

    function csv() {
      const quoted = (v) => /[",\n]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v;
      const lines = [["panel", "curve", charts[0].axes[0].label, "value", "low", "high"].map(quoted).join(",")];
      for (const u of charts)
        u.parts.forEach(({ s, role }, i) => {
          if (role !== "y" || !visible(s)) return;
          u.data[i + 1].forEach((y, j) => {
            if (y == null) return;
            const band = s.low ? [u.data[i + 2][j], u.data[i + 3][j]] : ["", ""];
            lines.push([quoted(u.panel.name), quoted(s.label), u.data[0][j], y, ...band.map((v) => v ?? "")].join(","));
          });
        });
      return lines.join("\n") + "\n";
    }

    // The panels as they are seen, with their names and a legend, on one canvas.
    function picture() {
      const ratio = devicePixelRatio, area = panels.getBoundingClientRect(), canvas = document.createElement("canvas");
      const entries = [...names].filter(([label]) => names.size > 1 && !hidden.has(label));
      const font = FONT.replace("12px", "13px"), ctx = canvas.getContext("2d"), places = [];
      ctx.font = font;
      let x = 0, y = 0;
      for (const [label, s] of entries) {
        const wide = 44 + ctx.measureText(label).width;
        if (x && x + wide > area.width) { x = 0; y += 20; }
        places.push([label, s, x, y]);
        x += wide;
      }
      const title = plot.closest("figure").querySelector("figcaption").textContent, top = 34 + (entries.length ? y + 28 : 0);
      canvas.width = Math.round((area.width + 24) * ratio);
      canvas.height = Math.round((area.height + top + 12) * ratio);
      ctx.scale(ratio, ratio);
      ctx.fillStyle = colour("var(--paper)");
      ctx.fillRect(0, 0, canvas.width, canvas.height);
      ctx.translate(12, 0);
      ctx.textBaseline = "middle";
      const write = (text, x, y, font) => { ctx.font = font; ctx.fillStyle = colour("var(--ink)"); ctx.fillText(text, x, y); };
      write(title, 0, 18, "bold " + FONT.replace("12px", "15px"));
      for (const [label, s, x, y] of places) {
        ctx.fillStyle = colour(s.colour);
        ctx.fillRect(x, 40 + y, 18, 4);
        write(label, x + 25, 43 + y, font);
      }
      for (const u of charts) {
        const r = u.frame.getBoundingClientRect(), c = u.ctx.canvas.getBoundingClientRect();
        write(u.panel.name, r.left - area.left, r.top - area.top + top + 8, font);
        ctx.drawImage(u.ctx.canvas, c.left - area.left, c.top - area.top + top, c.width, c.height);
      }
      return canvas;
    }

    plot.classList.add("drawn");
    draw();
  }

  document.querySelectorAll(".plot.chart").forEach(start);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => everything.forEach((u) => u.redraw(false)));

  // ------------------------------------------------------------------ the rest of the page

  const copy = document.getElementById("copy");
  if (copy) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      const code = document.getElementById("command");
      try {
        await navigator.clipboard.writeText(code.textContent);
        copy.textContent = "Copied";
      } catch {  // not allowed here: leave it marked, ready for the keyboard's copy
        getSelection().selectAllChildren(code);
      }
    });
  }

  // Paper has no folds.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((d) => { d.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((d) => { d.open = false; }));
})();
