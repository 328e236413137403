(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const colours = read("colours");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // A finger that moves over a chart scrolls the page.
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const charts = [...document.querySelectorAll(".chart")];
  const figures = new Map();
  const texts = new Set(["text", "hovertext", "ticktext", "name", "x", "y", "z"]);
  let printing = false;

  // Figures are in the light theme's colours.
  const themed = (value, key) => {
    if (texts.has(key) && typeof value !== "object") return value;
    if (typeof value === "string") return colours[value] ?? value;
    if (Array.isArray(value)) return texts.has(key) ? value : value.map((one) => themed(one, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, themed(one, name)]));
  };

  const fitted = (figure, chart) => {
    const narrow = chart.clientWidth < 600;
    for (const [name, axis] of Object.entries(figure.layout)) {
      if (!/^[xy]axis/.test(name)) continue;
      if (touch) axis.fixedrange = true;
      if (narrow && name === "xaxis" && axis.nticks) axis.nticks = Math.min(axis.nticks, 4);
    }
    if (touch) figure.layout.dragmode = false;
    return figure;
  };

  const fail = (chart, reason) => {
    chart.classList.add("chart-error");
    chart.textContent = `This chart could not be drawn: ${reason}`;
  };

  const draw = (chart) => {
    try {
      if (!figures.has(chart)) figures.set(chart, read(`figure-${chart.id}`));
      const asked = figures.get(chart);
      const figure = fitted(structuredClone(dark.matches && !printing ? themed(asked) : asked), chart);
      const config = { displayModeBar: false, responsive: true, scrollZoom: false, showTips: false };
      if (!chart.classList.contains("drawn")) chart.replaceChildren();
      chart.classList.add("drawn");
      Plotly.react(chart, figure.data, figure.layout, config).catch((reason) => fail(chart, reason));
    } catch (reason) {
      fail(chart, reason);
    }
  };

  // One after another, so that the page can be read and scrolled meanwhile.
  const drawFrom = (index) => {
    if (index >= charts.length) {
      document.documentElement.dataset.drawn = String(charts.length);
      return;
    }
    draw(charts[index]);
    setTimeout(() => drawFrom(index + 1), 0);
  };
  const redraw = () => charts.filter((chart) => chart.classList.contains("drawn")).forEach(draw);

  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => {
    printing = true;
    document.querySelectorAll("details").forEach((one) => { one.open = true; });
    charts.forEach(draw);
  });
  window.addEventListener("afterprint", () => { printing = false; redraw(); });
  drawFrom(0);
})();
