// A line chart of a few series over steps. Pointing at it, or the arrow keys, read off the values.

const CHART = { width: 360, height: 190, left: 46, right: 12, top: 12, bottom: 26 };

function tickStep(low, high, count) {
  const rough = (high - low || Math.abs(high) || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
}

function ticks(low, high, count) {
  const step = tickStep(low, high, count);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return found;
}

function tickText(value) {
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(0).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

// series: [[name, [[step, value], ...]], ...], at least one point in all.
function lineChart(title, series) {
  const points = series.flatMap(([, values]) => values);
  const range = (k) => [Math.min(...points.map((point) => point[k])), Math.max(...points.map((point) => point[k]))];
  const [x0, x1] = range(0);
  let [y0, y1] = range(1);
  if (y0 === y1) [y0, y1] = y0 === 0 ? [0, 1] : [Math.min(0, 2 * y0), Math.max(0, 2 * y1)];
  const step = tickStep(y0, y1, 4);
  [y0, y1] = [Math.floor(y0 / step + 1e-9) * step, Math.ceil(y1 / step - 1e-9) * step];
  const { width, height, left, right, top, bottom } = CHART;
  const x = (step) => left + ((step - x0) / (x1 - x0 || 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
  const grid = ticks(y0, y1, 4).flatMap((value) => [
    svg("line.rule", { x1: left, x2: width - right, y1: y(value), y2: y(value) }),
    svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, tickText(value)),
  ]);
  const steps = ticks(x0, x1, 5)
    .filter(Number.isInteger)
    .map((step) => svg("text", { x: x(step), y: height - 8, "text-anchor": "middle" }, tickText(step)));
  const lines = series.map(([, values], k) =>
    values.length > 1
      ? svg(`polyline.line.c${k}`, {
          points: values.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
        })
      : values.map(([step, value]) => svg(`circle.dot.c${k}`, { cx: x(step), cy: y(value), r: 3 })),
  );
  const hair = svg("line.hair", { y1: top, y2: height - bottom, visibility: "hidden" });
  const last = series
    .map(([name, values]) => `${name ? `${name} ` : ""}${values.length ? number(values.at(-1)[1]) : "none"}`)
    .join(", ");
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: last ${last}` },
    grid,
    steps,
    hair,
    lines,
  );
  const readout = el("span.value", { role: "status" }, last);
  const figure = el(
    "figure.chart",
    { tabindex: "0" },
    el("figcaption", null, el("strong", null, title), readout),
    drawing,
  );
  readOff(figure, drawing, hair, readout, series, x);
  return figure;
}

function readOff(figure, drawing, hair, readout, series, x) {
  const steps = [...new Set(series.flatMap(([, values]) => values.map(([step]) => step)))].sort((a, b) => a - b);
  let at = steps.length - 1;
  const show = (k) => {
    at = Math.min(Math.max(k, 0), steps.length - 1);
    const values = series
      .map(([name, points]) => [name, points.find(([step]) => step === steps[at])])
      .filter(([, point]) => point);
    hair.setAttribute("x1", x(steps[at]));
    hair.setAttribute("x2", x(steps[at]));
    hair.setAttribute("visibility", "visible");
    replace(
      readout,
      `step ${steps[at]}: `,
      values.map(([name, point]) => `${name ? `${name} ` : ""}${number(point[1])}`).join(", "),
    );
  };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * CHART.width;
    let best = 0;
    steps.forEach((step, k) => (best = Math.abs(x(step) - place) < Math.abs(x(steps[best]) - place) ? k : best));
    show(best);
  });
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(at + step);
  });
}
