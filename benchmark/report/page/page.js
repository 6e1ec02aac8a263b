"use strict";
/* Sorting and filtering of the tables, and the charts. Data come from the page itself; nothing is loaded. */
(() => {
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 4", "12 4", "1 2"];
  const STYLE = { fontSize: "12px", fontFamily: "system-ui, sans-serif" };
  const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye"]; // all have an inside

  // Tables ------------------------------------------------------------------------------------------------

  function sortTable(table, column, header) {
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const [missingX, missingY] = [x === "-" || x === "", y === "-" || y === ""];
      if (missingX || missingY) return missingX - missingY; // what was not measured stays below
      const [p, q] = [number(x), number(y)];
      const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
      return descending ? -order : order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  }

  function number(text) {
    const plain = text.replace(/,/g, "");
    const match = plain.match(/^[<>≤≥±]?\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)/i);
    return match ? Number(match[1]) : NaN;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = header.querySelector("button");
      if (button) button.addEventListener("click", () => sortTable(table, column, header));
    });
  }

  for (const box of document.querySelectorAll("input[data-filters]")) {
    const table = document.getElementById(box.dataset.filters);
    const count = box.closest(".filter").querySelector("output");
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length}` : "";
    });
  }

  // Charts ------------------------------------------------------------------------------------------------

  const store = document.getElementById("charts");
  if (!store || typeof Plot === "undefined") return;
  const { looks, charts: written } = JSON.parse(store.textContent);
  const charts = new Map(written.map((chart) => [chart.name, { ...chart, points: pointsOf(chart) }]));

  function pointsOf(chart) {
    return chart.points.map(([series, ...values]) => ({
      series: chart.series[series], ...Object.fromEntries(chart.fields.map((field, i) => [field, values[i]])),
    }));
  }

  function look(series) {
    const [color, mark] = looks[series];
    return { color, dash: DASHES[mark], symbol: SYMBOLS[mark] };
  }

  function choice(container, title, axes, redraw) {
    if (axes.length < 2) return () => axes[0];
    const label = document.createElement("label");
    label.textContent = `${title} `;
    const select = document.createElement("select");
    axes.forEach((axis, index) => select.add(new Option(axis.label, index)));
    select.addEventListener("change", redraw);
    label.append(select);
    container.append(label);
    return () => axes[select.value];
  }

  function legend(container, all, hidden, redraw, joined) {
    const list = document.createElement("ul");
    list.className = "legend";
    for (const series of all) {
      const { color, dash, symbol } = look(series);
      const item = document.createElement("li");
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !hidden.has(series);
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(series);
        else hidden.add(series);
        redraw();
      });
      const drawing = d3.create("svg").attr("viewBox", "0 0 34 14").attr("aria-hidden", "true");
      if (joined) drawing.append("line").attr("x2", 34).attr("y1", 7).attr("y2", 7)
        .attr("stroke", color).attr("stroke-width", 2).attr("stroke-dasharray", dash);
      drawing.append("path").attr("d", d3.symbol(Plot_symbol(symbol), 40)()).attr("transform", "translate(17,7)")
        .attr("fill", color);
      label.append(box, drawing.node(), document.createTextNode(series));
      item.append(label);
      list.append(item);
    }
    container.append(list);
  }

  function Plot_symbol(name) {
    const found = { circle: d3.symbolCircle, square: d3.symbolSquare, triangle: d3.symbolTriangle,
      diamond: d3.symbolDiamond, star: d3.symbolStar, cross: d3.symbolCross, wye: d3.symbolWye };
    return found[name];
  }

  // Digits as in the tables: the rules of rounding.py.
  function decimals(value, digits) {
    return Math.min(digits - 1 - Number(value.toExponential(digits - 1).split("e")[1]), 6);
  }

  function fixed(value, places) {
    const unit = 10 ** Math.max(0, -places);
    let units = value / unit;
    if (places <= 0) units = Math.abs(units % 1) === 0.5 ? 2 * Math.round(units / 2) : Math.round(units);
    const text = d3.format(`,.${Math.max(0, places)}f`)(units * unit).replace("−", "-");
    return Number(text.replace(/,/g, "")) === 0 ? text.replace("-", "") : text;
  }

  const withoutSpread = (value) => (value === 0 ? "0" : fixed(value, decimals(value, 3)));

  function shown(point, axis) {
    const value = point[axis.field];
    const has = axis.low && point[axis.low] !== null && point[axis.low] !== undefined;
    if (has) {
      const half = (point[axis.high] - point[axis.low]) / 2;
      // equal seeds have a spread of zero
      const places = half > 0 ? decimals(half, 2) : 2;
      const [middle, low, high] = [value, point[axis.low], point[axis.high]].map((one) => fixed(one, places));
      return axis.is_symmetric ? `${middle} ± ${fixed(half, places)}` : `${middle} (${low} to ${high})`;
    }
    return axis.exact ? fixed(value, Number.isInteger(value) ? 0 : 1) : withoutSpread(value);
  }

  const plainTicks = (axis) => ({ label: null, labelOffset: 42, grid: true, type: axis.log ? "log" : "linear",
    tickFormat: axis.log ? (d) => d3.format(d >= 1e6 ? "~s" : d >= 0.001 ? ",~r" : ".0e")(d) : undefined });

  function draw(chart, x, y, hidden, width) {
    const drawable = (p) => [[x, p], ...(y ? [[y, p]] : [])]
      .every(([axis, point]) => point[axis.field] !== null && point[axis.field] !== undefined
        && (!axis.log || point[axis.field] > 0));
    const points = chart.points.filter((p) => !hidden.has(p.series) && drawable(p));
    const color = (p) => look(p.series).color;
    const onFront = (p) => (y ? p[`front_${x.field}_${y.field}`] : undefined);
    const title = (p) => [p.label && p.label !== p.series ? `${p.series}: ${p.label}` : p.series,
      `${x.label}: ${shown(p, x)}`,
      y ? `${y.label}: ${shown(p, y)}` : "",
      p.seeds ? `seeds: ${p.seeds}` : "",
      { true: "on the Pareto front", false: "dominated: another is as good in both, and better in one" }[onFront(p)],
    ].filter(Boolean).join("\n");
    const spread = (axis) => (p) => axis.low && p[axis.low] !== null && p[axis.low] !== undefined
      && (!axis.log || p[axis.low] > 0);
    if (chart.kind === "intervals") {
      const marginLeft = Math.min(width * 0.5, 20 + 6.6 * Math.max(...points.map((p) => p.label.length)));
      const plot = Plot.plot({
        width, marginLeft, marginRight: 30, marginBottom: 50, height: 76 + 24 * points.length, style: STYLE,
        ariaLabel: chart.title, x: { ...plainTicks(x), label: x.label, inset: 8 },
        y: { label: null, domain: points.map((p) => p.label),
          tickFormat: (text) => (text.length * 6.4 > marginLeft ? `${text.slice(0, marginLeft / 6.4 - 2)}…` : text) },
        marks: [
          Plot.ruleX([1], { strokeOpacity: x.field === "value" && /ratio|floor/.test(x.label) ? 0.5 : 0 }),
          Plot.ruleY(points.filter(spread(x)), { y: "label", x1: x.low, x2: x.high, stroke: color, strokeWidth: 2 }),
          Plot.dot(points, { y: "label", x: x.field, fill: color, symbol: (p) => look(p.series).symbol, r: 4 }),
          Plot.tip(points, Plot.pointer({ y: "label", x: x.field, title })),
        ],
      });
      return { plot, points, title, x: x.field, y: "label" };
    }
    const marks = [];
    const named = chart.kind === "scatter" && points.length <= 12 && width >= 500; // else the legend alone
    if (chart.kind === "curves") {
      for (const [series, mine] of d3.group(points, (p) => p.series)) {
        const { color: own, dash, symbol } = look(series);
        const banded = mine.filter(spread(y));
        if (banded.length > 1)
          marks.push(Plot.areaY(banded, { x: x.field, y1: y.low, y2: y.high, fill: own, fillOpacity: 0.15 }));
        marks.push(Plot.line(mine, { x: x.field, y: y.field, stroke: own, strokeDasharray: dash, strokeWidth: 2 }));
        marks.push(Plot.dot(mine, { x: x.field, y: y.field, fill: own, symbol, r: 3 }));
      }
    } else {
      marks.push(Plot.ruleX(points.filter(spread(y)), { x: x.field, y1: y.low, y2: y.high, stroke: color, strokeWidth: 2 }));
      marks.push(Plot.ruleY(points.filter(spread(x)), { y: y.field, x1: x.low, x2: x.high, stroke: color, strokeWidth: 2 }));
      marks.push(Plot.dot(points, { x: x.field, y: y.field, fill: (p) => (onFront(p) ? color(p) : "var(--ground)"),
        stroke: color, strokeWidth: 1.5, symbol: (p) => look(p.series).symbol, r: 6 }));
      if (named)
        marks.push(Plot.text(points, { x: x.field, y: y.field, text: "label", dx: 10, textAnchor: "start", fill: "currentColor" }));
    }
    marks.push(Plot.tip(points, Plot.pointer({ x: x.field, y: y.field, title })));
    const plot = Plot.plot({
      width, height: Math.min(420, Math.max(260, width * 0.55)), marginLeft: 60, marginBottom: 50,
      marginRight: named ? 150 : 24, style: STYLE, ariaLabel: chart.title,
      inset: chart.kind === "scatter" ? 14 : 2,
      x: { ...plainTicks(x), label: x.label }, y: { ...plainTicks(y), labelOffset: undefined, label: y.label },
      marks,
    });
    return { plot, points, title, x: x.field, y: y.field };
  }

  /* Keys for a chart: it is one stop of the tabulator, and arrows go from point to point. Left and right stay
     within a series where it has several points, up and down go on to the next. The tip is the mouse's own. */
  function keys(drawing, status) {
    let drawn, at;
    const point = () => drawn.points[at];
    const middle = (axis) => {
      const scale = drawn.plot.scale(axis);
      return scale.apply(point()[drawn[axis]]) + (scale.bandwidth ?? 0) / 2;
    };
    const canvas = () => (drawn.plot.matches("svg") ? drawn.plot : drawn.plot.querySelector(":scope > svg"));
    const show = () => {
      const svg = canvas();
      const place = svg.getBoundingClientRect();
      const scaled = place.width / svg.viewBox.baseVal.width;
      svg.dispatchEvent(new PointerEvent("pointermove", { pointerType: "mouse", bubbles: true,
        clientX: place.left + middle("x") * scaled, clientY: place.top + middle("y") * scaled }));
      status.textContent = drawn.title(point()).replace(/\n/g, ", ");
    };
    const hide = () => {
      canvas().dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" }));
      status.textContent = "";
    };
    const moved = (key) => {
      const last = drawn.points.length - 1;
      const starts = d3.range(last + 1).filter((i) => !i || drawn.points[i].series !== drawn.points[i - 1].series);
      const own = d3.bisectRight(starts, at) - 1;
      const start = (place) => starts[Math.max(0, Math.min(starts.length - 1, place))];
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: start(own + 1), ArrowUp: start(own - 1),
        Home: 0, End: last }[key];
      return to === undefined ? undefined : Math.max(0, Math.min(last, to));
    };
    drawing.addEventListener("focus", () => {
      if (drawn.points.length && drawing.matches(":focus-visible")) show();
    });
    drawing.addEventListener("blur", hide);
    drawing.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const to = drawn.points.length ? moved(event.key) : undefined;
      if (to === undefined) return;
      event.preventDefault();
      at = to;
      show();
    });
    return (now) => {
      [drawn, at] = [now, 0];
      status.textContent = "";
    };
  }

  const redraws = [];
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const chart = charts.get(figure.dataset.chart);
    const choices = figure.querySelector(".choices");
    const drawing = figure.querySelector(".drawing");
    const hidden = new Set();
    const status = figure.querySelector("output");
    drawing.tabIndex = 0;
    drawing.setAttribute("role", "group");
    drawing.setAttribute("aria-label", `${chart.title}: arrow keys go from point to point`);
    const told = keys(drawing, status);
    const redraw = () => {
      const width = Math.max(300, Math.min(figure.clientWidth, 900));
      const drawn = draw(chart, x(), chart.y.length ? y() : null, hidden, width);
      drawing.replaceChildren(drawn.plot);
      told(drawn);
    };
    const y = chart.y.length ? choice(choices, "vertical", chart.y, redraw) : null;
    const x = choice(choices, "horizontal", chart.x, redraw);
    const all = chart.series;
    if (chart.kind !== "intervals")
      legend(figure.querySelector(".keys"), all, hidden, redraw, chart.kind === "curves");
    redraw();
    redraws.push(redraw);
  }
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      redraws.forEach((redraw) => redraw());
    }
  });
})();
