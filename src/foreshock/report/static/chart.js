// One chart: a uPlot instance plus what uPlot does not draw (bands, flags, marks, carets).
// A classic script: `foreshockChart` is the only name it adds to the page.

const foreshockChart = (() => {
  const FONT = '11px -apple-system, "Segoe UI", Inter, Roboto, "Helvetica Neue", Arial, sans-serif';
  const { align, search, span, text } = foreshockScales;
  const ROW = 15; // height of one row of mark labels, CSS pixels

  /** Of the grid lines of a log axis only the decades, unless there are hardly any. */
  function decades(u, splits) {
    const whole = (v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9;
    return splits.filter(whole).length < 2 ? splits : splits.map((v) => (whole(v) ? v : null));
  }

  /** Runs a drawing with the canvas state saved, clipped to the plot if wanted. */
  function paint(u, clip, draw) {
    const c = u.ctx, { left, top, width, height } = u.bbox;
    c.save();
    c.textAlign = "left"; // uPlot leaves what its axes needed
    c.textBaseline = "alphabetic";
    c.setLineDash([]);
    if (clip) {
      c.beginPath();
      c.rect(left, top, width, height);
      c.clip();
    }
    draw(c, devicePixelRatio);
    c.restore();
  }

  /** Vertical canvas position, clamped just outside the plot so that infinities stay drawable. */
  function height(u, v, log) {
    const { top, height: tall } = u.bbox;
    const y = log && v <= 0 ? Infinity : u.valToPos(v, "y", true);
    if (v === Infinity) return top - 20;
    if (v === -Infinity) return top + tall + 20;
    return Math.max(top - 20, Math.min(top + tall + 20, y));
  }

  /** Fills between two arrays, broken where either is nan. */
  function band(u, c, data, lower, upper, log, style) {
    const [from, to] = [search(data.mid, u.scales.x.min), search(data.mid, u.scales.x.max) + 2];
    let top = [], foot = [];
    const close = () => {
      if (top.length === 1) { // a lone point still shows its interval, as a bar
        top.push([top[0][0] + 2, top[0][1]]);
        foot.push([foot[0][0] + 2, foot[0][1]]);
      }
      if (top.length) {
        c.beginPath();
        top.concat(foot.reverse()).forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
        c.closePath();
        c.globalAlpha = style.alpha;
        c.fillStyle = style.colour;
        c.fill();
        if (style.outline) {
          c.globalAlpha = 0.9;
          c.strokeStyle = style.colour;
          c.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
          c.stroke();
          c.setLineDash([]);
        }
      }
      top = [];
      foot = [];
    };
    for (let i = from; i < Math.min(to, data.mid.length); i++) {
      if (Number.isNaN(lower[i]) || Number.isNaN(upper[i])) { close(); continue; }
      const x = u.valToPos(data.mid[i], "x", true);
      top.push([x, height(u, upper[i], log)]);
      foot.push([x, height(u, lower[i], log)]);
    }
    close();
    c.globalAlpha = 1;
  }

  /** Null bands, min-max, intervals, then references and marks: everything under the lines. */
  function under(u, spec, page, log) {
    const { palette } = page;
    paint(u, true, (c, ratio) => {
      for (const { data } of spec.lines)
        if (data.nlo) band(u, c, data, data.nlo, data.nhi, log, { colour: palette.null, alpha: 0.16, outline: true });
      for (const { data, colour, dashed, oneSided } of spec.lines) {
        const own = palette[`c${colour}`], strength = dashed ? 0.6 : 1;
        if (data.min) band(u, c, data, data.min, data.max, log, { colour: own, alpha: 0.13 * strength });
        if (data.lo) band(u, c, data, data.lo, oneSided ? data.y : data.hi, log, { colour: own, alpha: 0.2 * strength });
      }
      for (const mark of page.marks) {
        if (mark.run && mark.kind !== "alarm") continue; // the strip on top has the twin's milestones
        const x = Math.round(u.valToPos(mark.step, "x", true)) + 0.5;
        c.strokeStyle = mark.kind === "alarm" ? palette.alarm : palette.milestone;
        c.lineWidth = (mark.kind === "alarm" ? 1.5 : 1) * ratio;
        c.globalAlpha = spec.tall ? 1 : 0.6; // the small charts are about their series
        c.setLineDash(mark.kind === "alarm" && !mark.run ? [] : [4 * ratio, 3 * ratio]);
        c.beginPath();
        c.moveTo(x, u.bbox.top);
        c.lineTo(x, u.bbox.top + u.bbox.height);
        c.stroke();
      }
    });
  }

  /** Reference lines with their label; one out of range is named at the edge it lies beyond. */
  function references(u, spec, page) {
    paint(u, true, (c, ratio) => {
      for (const { value, label } of spec.references) {
        const { left, top, width, height: tall } = u.bbox;
        const above = value > u.scales.y.max, below = value < u.scales.y.min;
        const y = above ? top : below ? top + tall : Math.round(u.valToPos(value, "y", true)) + 0.5;
        c.font = FONT.replace("11px", `${11 * ratio}px`);
        c.fillStyle = c.strokeStyle = page.palette.muted;
        if (!above && !below) {
          c.setLineDash([6 * ratio, 4 * ratio]);
          c.lineWidth = ratio;
          c.beginPath();
          c.moveTo(left, y);
          c.lineTo(left + width, y);
          c.stroke();
        }
        const inside = above || y < top + 18 * ratio ? 13 : -5;
        const words = `${above ? "↑ " : below ? "↓ " : ""}${label}`;
        c.textAlign = "right";
        c.lineWidth = 4 * ratio; // a halo, so that a line behind stays a line and the words words
        c.lineJoin = "round";
        c.strokeStyle = page.palette.ground;
        c.strokeText(words, left + width - 6 * ratio, y + inside * ratio);
        c.fillText(words, left + width - 6 * ratio, y + inside * ratio);
      }
    });
  }

  /** Flagged points, infinities, points outside the axis: never drawn as if they were ordinary. */
  function exceptions(u, spec, page, log) {
    paint(u, true, (c, ratio) => {
      const { top, height: tall } = u.bbox;
      spec.lines.forEach(({ data, colour }, order) => {
        const own = page.palette[`c${colour}`];
        const from = search(data.mid, u.scales.x.min), to = Math.min(data.mid.length, search(data.mid, u.scales.x.max) + 1);
        let flagged = 0;
        for (let i = from; i < to; i++) if (data.flags && data.flags[i]) flagged++;
        let rugAt = -9, caretAt = -99;
        c.strokeStyle = own;
        c.lineWidth = 1.5 * ratio;
        for (let i = from; i < to; i++) {
          const v = data.y[i], x = u.valToPos(data.mid[i], "x", true);
          const drawn = Number.isFinite(v) && (!log || v > 0);
          const beyond = v === Infinity || (drawn && v > u.scales.y.max) ? 1
            : v === -Infinity || (Number.isFinite(v) && v < u.scales.y.min) ? -1 : 0;
          if (beyond && x - caretAt > 7 * ratio) {
            const edge = beyond > 0 ? top + 2 * ratio : top + tall - 2 * ratio;
            c.beginPath();
            c.moveTo(x - 4 * ratio, edge + beyond * 6 * ratio);
            c.lineTo(x, edge);
            c.lineTo(x + 4 * ratio, edge + beyond * 6 * ratio);
            c.fillStyle = own;
            Number.isFinite(v) ? c.stroke() : c.fill();
            caretAt = x;
          }
          if (!data.flags || !data.flags[i]) continue;
          if (drawn && flagged <= 60) {
            c.beginPath();
            c.arc(x, height(u, v, log), 3 * ratio, 0, 2 * Math.PI);
            c.fillStyle = page.palette.ground;
            c.fill();
            c.stroke();
          } else if (x - rugAt >= 1.5 * ratio) {
            const foot = top + tall - 7 * ratio * order;
            c.globalAlpha = 0.55;
            c.fillStyle = own;
            c.fillRect(x, foot - 5 * ratio, Math.max(1, ratio), 5 * ratio);
            c.globalAlpha = 1;
            rugAt = x;
          }
        }
      });
    });
  }

  /** Names of the marks above a tall chart, in rows; only triangles above a small one. */
  function names(u, spec, page) {
    paint(u, false, (c, ratio) => {
      c.font = FONT.replace("11px", `${11 * ratio}px`);
      const { left, top, width } = u.bbox;
      /** @type {number[]} right end of the last label in each row */
      const ends = [];
      const shown = page.marks.filter((m) => (!m.run || m.kind === "alarm")
        && m.step >= u.scales.x.min && m.step <= u.scales.x.max).sort((a, b) => a.step - b.step);
      for (const mark of shown) {
        const x = u.valToPos(mark.step, "x", true), alarm = mark.kind === "alarm";
        c.fillStyle = c.strokeStyle = alarm ? page.palette.alarm : page.palette.muted;
        if (alarm) {
          c.beginPath();
          c.moveTo(x, top);
          c.lineTo(x - 4 * ratio, top - 7 * ratio);
          c.lineTo(x + 4 * ratio, top - 7 * ratio);
          c.closePath();
          c.lineWidth = ratio;
          mark.run ? c.stroke() : c.fill();
        }
        if (!spec.tall) continue;
        const label = `${mark.label} ${mark.step.toLocaleString("en-US")}${mark.run ? " (twin)" : ""}`;
        const size = c.measureText(label).width;
        const start = Math.min(x - 3 * ratio, left + width - size);
        let row = ends.findIndex((end) => end + 8 * ratio < start);
        if (row < 0) row = ends.length;
        if (row > 2) continue; // no room: the strip and the tables name it
        ends[row] = start + size;
        c.fillStyle = page.palette.ink;
        c.fillText(label, start, top - (10 + ROW * row) * ratio);
      }
    });
  }

  /**
   * Draws a chart into an element.
   * @param {HTMLElement} element @param {ChartSpec} spec @param {Page} page @param {boolean} log
   * @param {(u: any) => void} onCursor @param {(u: any) => void} onDraw
   */
  function draw(element, spec, page, log, onCursor, onDraw) {
    const { palette } = page;
    const axis = { stroke: palette.muted, font: FONT, grid: { stroke: palette.grid, width: 1 }, ticks: { show: false } };
    const options = {
      width: element.clientWidth,
      height: spec.tall ? 300 : 190,
      padding: [spec.tall ? 8 + 3 * ROW : 12, 8, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: false, range: () => page.range() },
        y: { distr: log ? 3 : 1, range: () => span(spec, log, page.range()) },
      },
      axes: [
        { ...axis, size: 26, values: (_, ticks) => ticks.map((v) => (Number.isInteger(v) ? text(v) : "")),
          label: "step", labelSize: 15, labelGap: -2, labelFont: FONT, space: 70 },
        { ...axis, grid: { ...axis.grid, filter: log ? decades : (_, splits) => splits }, size: 58, gap: 4, space: 32, values: (_, ticks) => ticks.map((v) => (v == null ? "" : text(v))) },
      ],
      series: [{}, ...spec.lines.map((line) => ({
        stroke: palette[`c${line.colour}`],
        width: line.dashed ? 1.25 : 1.75,
        dash: line.dashed ? [5, 4] : undefined,
        points: { show: line.data.y.length <= 40, size: 5, fill: palette.ground },
      }))],
      cursor: {
        y: false,
        points: { size: 7, fill: (_, i) => palette[`c${spec.lines[i - 1].colour}`] },
        drag: { x: true, y: false, setScale: false },
        sync: { key: "steps", scales: ["x", null], filters: { pub: (type) => /^mouse(move|leave)$/.test(type) } },
        bind: { dblclick: () => () => { page.reset(); return null; } },
      },
      hooks: {
        setSelect: [(u) => {
          if (u.select.width < 4) return;
          const [low, high] = [u.select.left, u.select.left + u.select.width].map((p) => u.posToVal(p, "x"));
          u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          page.zoom(low, high);
        }],
        setCursor: [onCursor],
        drawAxes: [(u) => under(u, spec, page, log)],
        draw: [(u) => { references(u, spec, page); exceptions(u, spec, page, log); names(u, spec, page); onDraw(u); }],
      },
    };
    return new uPlot(options, align(spec.lines, log), element);
  }

  return { draw };
})();
