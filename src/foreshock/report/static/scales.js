// Numbers of a chart: as text, found by step, aligned on common steps, and the range they span.
// A classic script: `foreshockScales` is the only name it adds to the page.

/**
 * @typedef {object} Series        One series, unpacked; arrays have equal length.
 * @property {ArrayLike<number>} x   first step of each point
 * @property {ArrayLike<number>} [x2] last step of each bucket; absent when points are exact
 * @property {ArrayLike<number>} mid where the point is drawn
 * @property {ArrayLike<number>} y   value, or mean of the bucket
 * @property {ArrayLike<number>} n
 * @property {ArrayLike<number>} [min]
 * @property {ArrayLike<number>} [max]
 * @property {ArrayLike<number>} [lo]
 * @property {ArrayLike<number>} [hi]
 * @property {ArrayLike<number>} [nlo]
 * @property {ArrayLike<number>} [nhi]
 * @property {ArrayLike<number>} [flags]
 * @property {boolean} [exact]
 *
 * @typedef {object} Line
 * @property {Series} data
 * @property {number} run
 * @property {string} label
 * @property {number} colour
 * @property {boolean} dashed
 * @property {boolean} oneSided the band of a lower bound ends at its line
 *
 * @typedef {object} Mark
 * @property {"milestone"|"alarm"|"action"} kind
 * @property {number} step
 * @property {string} label
 * @property {number} run
 *
 * @typedef {object} ChartSpec
 * @property {string} key
 * @property {Line[]} lines
 * @property {{value: number, label: string}[]} references
 * @property {boolean} log
 * @property {[number, number]|null} bounds
 * @property {boolean} tall
 *
 * @typedef {object} Page           What all charts share.
 * @property {() => [number, number]} range  steps in view
 * @property {(low: number, high: number) => void} zoom
 * @property {() => void} reset
 * @property {Mark[]} marks
 * @property {Record<string, string>} palette  colours of the current theme
 */

const foreshockScales = (() => {
  /** Four significant digits, as the tables of the page write them. @param {number} v */
  function text(v) {
    if (Number.isNaN(v)) return "nan";
    if (!Number.isFinite(v)) return v > 0 ? "+inf" : "−inf";
    const size = Math.abs(v);
    let out;
    if (Number.isInteger(v) && size < 1e6) out = v.toLocaleString("en-US");
    else if (size >= 1e4 && size < 1e6) out = Math.round(v).toLocaleString("en-US");
    else if (size >= 1e-3 && size < 1e4) out = String(Number(v.toPrecision(4)));
    else {
      const [mantissa, exponent] = v.toExponential(3).split("e");
      out = `${Number(mantissa)}e${Number(exponent)}`;
    }
    return out.replaceAll("-", "−");
  }

  /** Index of the last entry <= value, or 0. @param {ArrayLike<number>} a @param {number} v */
  function search(a, v) {
    let low = 0, high = a.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (a[middle] <= v) low = middle; else high = middle - 1;
    }
    return low;
  }

  /** Index of the entry nearest to a value. @param {ArrayLike<number>} a @param {number} v */
  function nearest(a, v) {
    const i = search(a, v);
    return i + 1 < a.length && a[i + 1] - v < v - a[i] ? i + 1 : i;
  }

  /**
   * One column per line on the union of their steps. `undefined` (the line was not measured at
   * this step) is bridged, `null` (nan, inf, or <= 0 on a log axis) is a gap.
   * @param {Line[]} lines @param {boolean} log
   */
  function align(lines, log) {
    const usable = (v) => Number.isFinite(v) && (!log || v > 0);
    const same = lines.every((line) => line.data.mid === lines[0].data.mid);
    const union = same
      ? Array.from(lines[0].data.mid)
      : [...new Set(lines.flatMap((line) => Array.from(line.data.mid)))].sort((a, b) => a - b);
    const place = same ? null : new Map(union.map((x, i) => [x, i]));
    const columns = lines.map(({ data }) => {
      const column = new Array(union.length);
      for (let i = 0; i < data.y.length; i++) {
        const at = place ? place.get(data.mid[i]) : i;
        column[at] = usable(data.y[i]) ? data.y[i] : null;
      }
      return column;
    });
    return [union, ...columns];
  }

  /**
   * Vertical range of what is in view. Outliers of small charts (2 % tails stretching the axis more
   * than 12 times) are left outside and marked by carets, else they would flatten everything;
   * intervals, nulls and references may widen the range, but never dominate it.
   * @param {ChartSpec} spec @param {boolean} log @param {[number, number]} steps
   */
  function span(spec, log, steps) {
    const forth = log ? Math.log10 : (v) => v;
    const back = log ? (v) => 10 ** v : (v) => v;
    const usable = (v) => Number.isFinite(v) && (!log || v > 0);
    if (spec.bounds && !log) {
      const pad = 0.03 * (spec.bounds[1] - spec.bounds[0]);
      return [spec.bounds[0] - pad, spec.bounds[1] + pad];
    }
    const values = [], wide = [];
    for (const { data } of spec.lines) {
      const from = search(data.mid, steps[0]), to = Math.min(data.mid.length, search(data.mid, steps[1]) + 2);
      for (let i = from; i < to; i++) {
        for (const source of [data.y, data.min, data.max])
          if (source && usable(source[i])) values.push(forth(source[i]));
        for (const source of [data.lo, data.hi, data.nlo, data.nhi])
          if (source && usable(source[i])) wide.push(forth(source[i]));
      }
    }
    if (!values.length) return log ? [0.1, 10] : [0, 1];
    values.sort((a, b) => a - b);
    wide.sort((a, b) => a - b);
    const at = (list, share) => list[Math.round(share * (list.length - 1))];
    let low = values[0], high = values[values.length - 1];
    const coreLow = at(values, 0.02), coreHigh = at(values, 0.98), core = coreHigh - coreLow;
    if (!spec.tall && values.length >= 20 && core > 0 && high - low > 12 * core) {
      low = Math.max(low, coreLow - core);
      high = Math.min(high, coreHigh + core);
    }
    let room = high - low || Math.abs(high) * 0.1 || 1;
    if (wide.length) {
      const before = [low, high];
      low = Math.min(low, Math.max(at(wide, 0.05), before[0] - room));
      high = Math.max(high, Math.min(at(wide, 0.95), before[1] + room));
    }
    room = high - low || room;
    for (const { value } of spec.references) {
      const v = forth(value);
      if (usable(value) && v > low - 6 * room && v < high + 6 * room) {
        low = Math.min(low, v);
        high = Math.max(high, v);
      }
    }
    const pad = (high - low) * 0.07 || room / 2;
    return [back(low - pad), back(high + pad)];
  }

  return { align, nearest, search, span, text };
})();
