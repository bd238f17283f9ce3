// Plots of the last hour, by uPlot, in the colours of the page.

import { number } from "./dash_parts.js";
import { html, useEffect, useRef } from "./ui.js";

const HEIGHT = 170;
const LABEL = 7; // px that a character of a label takes, at most
const BESIDE = 24; // px between the labels and the plot
const DARK = matchMedia("(prefers-color-scheme: dark)");

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(title, lines, width) {
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, low, high) => [0, Math.max(1, high ?? 1) * 1.1] } },
    axes: [{ ...axis, size: 28 }, { ...axis, size: room, values: (_, ticks) => ticks.map((tick) => number(tick)) }],
    series: [{}, ...lines.map((line) => ({ label: line.label, stroke: color(line.color), width: 1.5, points: { show: false } }))],
  };
}

/** Room for the labels of the vertical axis, in px. */
function room(_, labels) {
  return BESIDE + LABEL * Math.max(3, ...(labels ?? []).map((label) => label.length));
}

/** `lines`: `{ label, values, color }`, where `color` is a custom property of the page. */
export function Plot({ title, at, lines }) {
  const place = useRef(null);
  const plot = useRef(null);
  const latest = useRef(null);
  latest.current = [at, ...lines.map(({ values }) => values)];
  useEffect(() => {
    const node = place.current; // the reference is empty once the view has been left
    const draw = () => {
      plot.current?.destroy();
      plot.current = new globalThis.uPlot(options(title, lines, node.clientWidth), latest.current, node);
    };
    draw();
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: node.clientWidth, height: HEIGHT }));
    resized.observe(node);
    DARK.addEventListener("change", draw);
    return () => {
      resized.disconnect();
      DARK.removeEventListener("change", draw);
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);
  useEffect(() => void plot.current?.setData(latest.current), [at.at(-1), at.length]);
  const said = lines.map(({ label, values }) => {
    const known = values.filter((value) => value !== null);
    return known.length ? `${label} ${number(known.at(-1))} now, at most ${number(Math.max(...known))}` : `${label} unknown`;
  });
  return html`<figure class="plot">
    <figcaption>${title} ${lines.map(({ label, color: name }) => html`<span key=${label} class=${`key ${name.slice(2)}`}>${label}</span>`)}</figcaption>
    <div ref=${place} role="img" aria-label=${`${title}: ${said.join("; ")}`}></div>
  </figure>`;
}
