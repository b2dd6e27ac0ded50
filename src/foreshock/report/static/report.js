// The page: unpacks the data, draws every chart, keeps cursor, zoom, theme and filter in step.
// Everything it shows is already in the document as text; without it only the pictures are missing.

(() => {
  /** @param {string} selector @returns {any} */
  const find = (selector) => document.querySelector(selector);
  const source = JSON.parse(find("#data").textContent);

  const FLAGS = ["unresolved", "not converged", "below precision", "no edge", "invalid density",
    "coupled examples", "nonstationary", "varying diffusion"];

  /** Base64 of little-endian numbers, or one repeated number. */
  function unpack(packed) {
    if ("k" in packed) {
      const value = { inf: Infinity, "-inf": -Infinity }[packed.k] ?? Number(packed.k); // "nan" is NaN
      return new Float64Array(packed.length).fill(value);
    }
    const bytes = Uint8Array.from(atob(packed.b), (character) => character.charCodeAt(0));
    const kinds = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u1: Uint8Array };
    return new kinds[packed.t](bytes.buffer);
  }

  const axes = source.axes.map(unpack);
  /** Middles of buckets, shared so that lines on the same steps are recognised as such. */
  const middles = new Map();

  /** @returns {Series} */
  function series(packed) {
    const out = { exact: packed.exact, x: axes[packed.x] };
    for (const name of ["y", "n", "min", "max", "lo", "hi", "nlo", "nhi", "flags"])
      if (packed[name]) out[name] = unpack(packed[name]);
    if (packed.x2 === undefined) out.mid = out.x;
    else {
      const key = `${packed.x},${packed.x2}`;
      out.x2 = axes[packed.x2];
      if (!middles.has(key)) middles.set(key, Float64Array.from(out.x, (x, i) => (x + out.x2[i]) / 2));
      out.mid = middles.get(key);
    }
    return out;
  }

  const all = source.series.map(series);
  const specs = source.charts.map((chart) => ({
    ...chart,
    lines: chart.lines.map((line) => ({ ...line, data: all[line.series] })),
  }));

  // ---- what all charts share -------------------------------------------------------------------

  /** @type {[number, number]|null} steps in view; null shows all */
  let view = null;
  const whole = [0, Math.max(1, source.last)];

  const page = {
    marks: source.runs.flatMap((run, index) => run.marks.map((mark) => ({ ...mark, run: index }))),
    palette: {},
    range: () => view ?? whole,
    zoom(low, high) {
      const width = Math.max(high - low, 2);
      const from = Math.max(whole[0], low);
      view = [from, Math.max(from + 1, Math.min(whole[1], from + width))];
      applyView();
    },
    reset() {
      view = null;
      applyView();
    },
  };

  function readPalette() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["c0", "c1", "c2", "c3", "c9", "alarm", "milestone", "null", "ink", "muted", "grid", "ground"])
      page.palette[name] = style.getPropertyValue(`--${name}`).trim();
  }

  function applyView() {
    const [min, max] = page.range();
    for (const chart of charts) chart.plot.setScale("x", { min, max });
    find("#reset").hidden = view === null;
  }

  // ---- charts ----------------------------------------------------------------------------------

  /** The values of a line at a step, in words. */
  function readout(line, step) {
    const { data } = line, i = foreshockScales.nearest(data.mid, step), { text } = foreshockScales;
    const count = (v) => v.toLocaleString("en-US");
    const where = data.x2 && data.x2[i] !== data.x[i]
      ? `steps ${count(data.x[i])}–${count(data.x2[i])}` : `step ${count(data.x[i])}`;
    const parts = [data.min ? `mean ${text(data.y[i])}` : text(data.y[i])];
    if (data.min) parts.push(`${text(data.min[i])} to ${text(data.max[i])}`);
    if (data.lo && !(Number.isNaN(data.lo[i]) && Number.isNaN(data.hi[i])))
      parts.push(`[${text(data.lo[i])}, ${text(data.hi[i])}]`);
    if (data.n[i] > 1) parts.push(`n = ${count(data.n[i])}`);
    if (data.nlo && !Number.isNaN(data.nlo[i])) parts.push(`null [${text(data.nlo[i])}, ${text(data.nhi[i])}]`);
    if (data.flags) FLAGS.forEach((name, bit) => { if (data.flags[i] & (1 << bit)) parts.push(name); });
    return [where, parts.join(" · ")];
  }

  /** A chart bound to its element: redrawn on theme, log and size changes. */
  function makeChart(spec) {
    const element = find(`#plot-${CSS.escape(spec.key)}`), figure = element.closest("figure");
    const items = [...figure.querySelectorAll(".key li")].map((item) => ({
      where: item.querySelector(".where"), value: item.querySelector(".readout"),
    }));
    const resting = items.map(({ where, value }) => [where.textContent, value.textContent]);
    const chart = { spec, element, log: spec.log, plot: null, draw, move, showStep };

    function onCursor(u) {
      const { idx } = u.cursor;
      items.forEach(({ where, value }, i) => {
        const [at, words] = idx == null ? resting[i] : readout(spec.lines[i], u.posToVal(u.cursor.left, "x"));
        if (where.textContent !== at) where.textContent = at;
        if (value.textContent !== words) value.textContent = words;
      });
    }

    function onDraw(u) {
      const { x, y } = u.scales;
      Object.assign(element.dataset, { xMin: x.min, xMax: x.max, yMin: y.min, yMax: y.max, log: chart.log });
    }

    function draw() {
      chart.plot?.destroy();
      chart.plot = foreshockChart.draw(element, spec, page, chart.log, onCursor, onDraw);
    }

    /** Puts the cursor at a step; null takes it away. */
    function showStep(step) {
      const left = step === null ? -10 : chart.plot.valToPos(step, "x");
      chart.plot.setCursor({ left, top: step === null ? -10 : 10 });
    }

    /** Moves the cursor by points of the first line. */
    function move(by) {
      const steps = chart.plot.data[0], [low, high] = page.range();
      const now = chart.plot.cursor.idx ?? (by > 0 ? foreshockScales.nearest(steps, low) - by : foreshockScales.nearest(steps, high) - by);
      const next = Math.max(0, Math.min(steps.length - 1, now + by));
      for (const other of charts) other.showStep(steps[next]);
    }

    figure.querySelector(".log").addEventListener("click", (event) => {
      chart.log = !chart.log;
      event.currentTarget.setAttribute("aria-pressed", chart.log);
      draw();
    });
    element.addEventListener("keydown", (event) => {
      const { left } = chart.plot.cursor, [low, high] = page.range();
      const centre = left >= 0 ? chart.plot.posToVal(left, "x") : (low + high) / 2;
      const zoomBy = (factor) => page.zoom(centre - (centre - low) * factor, centre + (high - centre) * factor);
      const stride = event.shiftKey ? 10 : 1;
      const actions = {
        ArrowLeft: () => move(-stride), ArrowRight: () => move(stride),
        "+": () => zoomBy(0.5), "=": () => zoomBy(0.5), "-": () => zoomBy(2),
        Escape: () => { page.reset(); charts.forEach((other) => other.showStep(null)); },
      };
      if (actions[event.key]) {
        event.preventDefault();
        actions[event.key]();
      }
    });
    // Only the chart in use speaks; all forty following the cursor would be noise.
    const speak = (mode) => () => figure.querySelector(".key").setAttribute("aria-live", mode);
    element.addEventListener("focus", speak("polite"));
    element.addEventListener("blur", speak("off"));
    return chart;
  }

  const charts = specs.map(makeChart);

  function drawAll() {
    readPalette();
    for (const chart of charts) chart.draw();
  }

  // ---- theme, size, filter ---------------------------------------------------------------------

  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

  function showTheme() {
    find("#theme").setAttribute("aria-pressed", isDark());
    drawAll();
  }

  find("#theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);
  find("#reset").addEventListener("click", page.reset);

  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const chart = charts.find(({ element }) => element === target);
      const width = target.clientWidth;
      if (chart?.plot && width > 0 && chart.plot.width !== width)
        chart.plot.setSize({ width, height: chart.plot.height });
    }
  });

  find("#filter")?.addEventListener("input", (event) => {
    const wanted = event.currentTarget.value.trim().toLowerCase();
    let shown = 0, total = 0;
    for (const family of document.querySelectorAll(".family")) {
      let visible = 0;
      for (const figure of family.querySelectorAll("figure")) {
        figure.hidden = !(figure.dataset.filter ?? figure.dataset.title.toLowerCase()).includes(wanted);
        visible += figure.hidden ? 0 : 1;
        total += 1;
      }
      family.hidden = visible === 0;
      shown += visible;
    }
    find("#filter-count").textContent = `${shown} of ${total}`;
  });

  showTheme();
  for (const { element } of charts) resized.observe(element);
  root.dataset.ready = "true"; // tests and printers wait for it
})();
