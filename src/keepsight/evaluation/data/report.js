"use strict";
(() => {
  const groups = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 640px)");
  const redraws = [];

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const colourOf = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Plotly reads a few tags and entities in its labels; names must appear as they are.
  const literal = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // ---------------------------------------------------------------------------------------------- sortable tables

  function sortBy(table, column, direction) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const numeric = heads[column].dataset.kind === "number";
    heads.forEach((th, i) => th.setAttribute("aria-sort", i === column ? direction : "none"));
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = [...body.rows].map((row, i) => ({row, i, key: row.cells[column].dataset.order ?? ""}));
    keyed.sort((a, b) => {
      if (numeric) {
        if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "") || a.i - b.i;  // unknown comes last
        return sign * (Number(a.key) - Number(b.key)) || a.i - b.i;
      }
      return sign * a.key.localeCompare(b.key, "en", {numeric: true}) || a.i - b.i;
    });
    body.append(...keyed.map(k => k.row));
  }

  document.addEventListener("click", event => {
    const th = event.target.closest("table.sortable thead th");
    if (!th || !event.target.closest("button")) return;
    const now = th.getAttribute("aria-sort");
    const first = th.dataset.kind === "number" ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    sortBy(th.closest("table"), th.cellIndex, now === first ? other : first);
  });

  document.querySelectorAll(".show-published").forEach(box => {
    const card = box.closest(".card");
    const apply = () => card.classList.toggle("hide-published", !box.checked);
    box.addEventListener("change", apply);
    apply();
  });

  // ------------------------------------------------------------------------------------------------------- charts

  function trackerColour(tracker) {
    return tracker.colour === "#000000" ? colourOf("--text") : tracker.colour;
  }

  function tracesOf(group, chart, hidden) {
    return chart.traces.map(trace => {
      const tracker = group.trackers[trace.tracker];
      const colour = trackerColour(tracker);
      const common = {
        name: literal(tracker.name),
        visible: !hidden.has(trace.tracker),
        line: {color: colour, dash: tracker.dash, width: 2},
        marker: {color: colour, symbol: tracker.marker, size: chart.kind === "points" ? 11 : 6},
      };
      if (chart.kind === "radar") {
        return {
          ...common, type: "scatterpolar", mode: "lines+markers", connectgaps: false,
          theta: [...trace.x, trace.x[0]].map(literal), r: [...trace.y, trace.y[0]],
          hovertemplate: "%{theta}: %{r:.1f}",
        };
      }
      const points = chart.kind === "points";
      const result = {
        ...common, type: "scatter", mode: points ? "markers" : "lines", x: trace.x, y: trace.y,
        hovertemplate: points ? "%{x:.3~f}, %{y:.3f}" : "%{y:.3f}",
      };
      if (trace.error) {
        result.error_y = {type: "data", symmetric: false, array: [trace.error[0]], arrayminus: [trace.error[1]], color: colour, thickness: 1};
      }
      return result;
    });
  }

  function layoutOf(chart) {
    const text = colourOf("--text"), grid = colourOf("--grid"), card = colourOf("--card");
    const axis = (title, range) => ({
      title: {text: literal(title), standoff: 6}, gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true,
      ...(range ? {range: [...range]} : {}),
    });
    const longest = chart.kind === "radar" ? Math.max(...chart.traces[0].x.map(name => name.length)) : 0;
    const side = Math.min(110, 25 + 7 * longest);
    const radial = {gridcolor: grid, linecolor: grid, tickfont: {size: 10}, nticks: 5, ...(chart.y_range ? {range: [...chart.y_range]} : {})};
    return {
      font: {family: "system-ui, sans-serif", size: 12, color: text},
      paper_bgcolor: card, plot_bgcolor: card, showlegend: false,
      margin: chart.kind === "radar" ? {l: side, r: side, t: 30, b: 30} : {l: 46, r: 10, t: 10, b: 40},
      hovermode: chart.kind === "curve" ? "x unified" : "closest",
      hoverlabel: {bgcolor: card, bordercolor: grid, font: {color: text, size: 12}, namelength: 24},
      dragmode: narrow.matches ? false : "zoom",  // a finger scrolls the page
      xaxis: {...axis(chart.x, chart.x_range), ...(chart.x === "Rank" ? {tick0: 1, dtick: Math.ceil(chart.traces.length / 12)} : {})}, yaxis: axis(chart.y, chart.y_range),
      polar: {
        bgcolor: card, radialaxis: radial,
        angularaxis: {gridcolor: grid, linecolor: grid, direction: "clockwise", rotation: 90, tickfont: {size: 11}},
      },
    };
  }

  const configOf = chart => ({
    responsive: true, displaylogo: false, displayModeBar: narrow.matches ? false : "hover",
    modeBarButtons: [chart.kind === "radar" ? ["toImage"] : ["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: {format: "svg", filename: "keepsight"},
  });

  function swatch(tracker) {
    const space = "http://www.w3.org/2000/svg";  // a name, not an address: nothing is fetched
    const svg = document.createElementNS(space, "svg");
    const line = document.createElementNS(space, "line");
    svg.setAttribute("viewBox", "0 0 28 10");
    svg.setAttribute("class", "swatch");
    svg.setAttribute("aria-hidden", "true");
    for (const [name, value] of Object.entries({x1: 1, x2: 27, y1: 5, y2: 5, class: "line-" + tracker.dash})) line.setAttribute(name, value);
    line.style.setProperty("--colour", tracker.colour === "#000000" ? "var(--text)" : tracker.colour);
    svg.append(line);
    return svg;
  }

  function setUpCharts(section, group) {
    const hidden = new Set();
    const drawn = new Map();
    const buttons = [];
    const refresh = () => {
      buttons.forEach(({button, tracker}) => button.setAttribute("aria-pressed", String(!hidden.has(tracker))));
      drawn.forEach((chart, div) => Plotly.react(div, tracesOf(group, chart, hidden), div.layout));
    };
    const toggle = tracker => { if (!hidden.delete(tracker)) hidden.add(tracker); refresh(); };
    const alone = tracker => {
      const others = group.trackers.map((_, i) => i).filter(i => i !== tracker);
      const already = others.every(i => hidden.has(i));
      hidden.clear();
      if (!already) others.forEach(i => hidden.add(i));
      refresh();
    };
    const draw = div => {
      if (drawn.has(div)) return;
      const chart = group.charts[Number(div.dataset.chart)];
      drawn.set(div, chart);
      Plotly.newPlot(div, tracesOf(group, chart, hidden), layoutOf(chart), configOf(chart));
    };
    const seen = new IntersectionObserver(entries => entries.forEach(entry => {
      if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    }), {rootMargin: "600px"});
    section.querySelectorAll(".chart").forEach(div => {
      const chart = group.charts[Number(div.dataset.chart)];
      const legend = div.parentElement.querySelector(".legend");
      chart.traces.forEach(trace => {
        const tracker = group.trackers[trace.tracker];
        const button = make("button", {type: "button"}, swatch(tracker), make("span", {textContent: tracker.name}));
        if (trace.number) button.append(make("b", {textContent: trace.number}));
        button.setAttribute("aria-pressed", "true");
        button.addEventListener("click", event => event.detail === 2 ? alone(trace.tracker) : toggle(trace.tracker));
        legend.append(make("li", {}, button));
        buttons.push({button, tracker: trace.tracker});
      });
      seen.observe(div);
    });
    window.addEventListener("beforeprint", () => section.querySelectorAll(".chart").forEach(draw));
    redraws.push(() => drawn.forEach((chart, div) => Plotly.react(div, tracesOf(group, chart, hidden), layoutOf(chart))));
  }

  const redrawAll = () => redraws.forEach(redraw => redraw());
  dark.addEventListener("change", redrawAll);
  narrow.addEventListener("change", redrawAll);

  // -------------------------------------------------------------------------------------------------- sequence table

  function setUpSequences(section, group) {
    const card = section.querySelector(".sequences");
    const table = card.querySelector("table"), search = card.querySelector(".search");
    const select = card.querySelector(".metric"), count = card.querySelector(".count");
    const {names, frames, values} = group.sequences;
    const usable = group.metrics.map((_, m) => m).filter(m => values[m].some(row => row.some(v => v !== null)));
    if (!names.length || !usable.length) { card.hidden = true; return; }
    usable.forEach(m => select.append(make("option", {value: m, textContent: group.metrics[m].label})));
    const head = (text, kind) => {
      const th = make("th", {scope: "col"}, make("button", {type: "button", textContent: text}));
      th.setAttribute("aria-sort", "none");
      th.dataset.kind = kind;
      if (kind === "number") th.className = "number";
      return th;
    };
    table.tHead.append(make("tr", {}, head("Sequence", "text"), head("Frames", "number"), ...group.trackers.map(t => head(t.name, "number"))));
    const rows = names.map((name, s) => {
      const th = make("th", {scope: "row", textContent: name});
      th.dataset.order = name;
      const length = make("td", {className: "number", textContent: frames[s]});
      length.dataset.order = frames[s];
      const cells = group.trackers.map(() => make("td", {className: "number"}));
      return {name: name.toLowerCase(), cells, row: make("tr", {}, th, length, ...cells)};
    });
    table.tBodies[0].append(...rows.map(r => r.row));

    const fill = () => {
      const m = Number(select.value), metric = group.metrics[m];
      const print = v => v === null ? "–" : (metric.factor * v).toFixed(metric.digits);
      const known = values[m].flat().filter(v => v !== null);
      const low = Math.min(...known), high = Math.max(...known);
      rows.forEach(({cells}, s) => {
        const here = values[m].map(row => row[s]).filter(v => v !== null);
        const best = here.length > 1 ? print(metric.higher ? Math.max(...here) : Math.min(...here)) : null;
        cells.forEach((cell, t) => {
          const v = values[m][t][s];
          cell.textContent = print(v);
          cell.dataset.order = v ?? "";
          cell.classList.toggle("best", v !== null && print(v) === best);
          const share = v === null || high === low ? 0 : (v - low) / (high - low);
          cell.style.setProperty("--share", (0.32 * (metric.higher ? share : 1 - share)).toFixed(3));
        });
      });
      const sorted = [...table.tHead.rows[0].cells].findIndex(th => th.getAttribute("aria-sort") !== "none");
      if (sorted > 1) sortBy(table, sorted, table.tHead.rows[0].cells[sorted].getAttribute("aria-sort"));
    };
    const filter = () => {
      const wanted = search.value.trim().toLowerCase();
      let shown = 0;
      rows.forEach(({name, row}) => { row.hidden = !name.includes(wanted); shown += !row.hidden; });
      count.textContent = shown === rows.length ? `${shown} sequences` : `${shown} of ${rows.length}`;
    };
    select.addEventListener("change", fill);
    search.addEventListener("input", filter);
    fill();
    filter();
  }

  document.querySelectorAll("section.group").forEach(section => {
    const group = groups[Number(section.dataset.group)];
    setUpCharts(section, group);
    setUpSequences(section, group);
  });
})();
