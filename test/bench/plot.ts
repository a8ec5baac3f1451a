/** Plots as SVG, legible on light and dark pages. */

const WIDTH = 720;
const LEFT = 130;
const RIGHT = 110;
const ROW = 28;
const TOP = 44;
const HEIGHT = 320;
const COLORS = ["#c2410c", "#2563eb", "#16a34a", "#9333ea", "#0891b2", "#ca8a04", "#db2777", "#64748b"];

const escaped = (text: string) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const round = (value: number) => Math.round(value * 10) / 10;

function svg(height: number, title: string, body: string[]): string {
  const label = escaped(title);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${label}">`,
    "<style>svg{background:#fff}text{font:13px sans-serif;fill:#1f2937}.title{font-weight:bold}</style>",
    `<text class="title" x="8" y="20">${label}</text>`,
    ...body,
    "</svg>\n",
  ].join("\n");
}

/** Horizontal bars, each with its value. The first one is outrider's. */
export function barPlot({ title, bars }: { title: string; bars: readonly { name: string; value: number }[] }): string {
  const most = Math.max(...bars.map((bar) => bar.value));
  const body = bars.flatMap(({ name, value }, i) => {
    const y = TOP + i * ROW;
    const width = round(((WIDTH - LEFT - RIGHT) * value) / most);
    return [
      `<text x="${LEFT - 8}" y="${y + 15}" text-anchor="end">${escaped(name)}</text>`,
      `<rect x="${LEFT}" y="${y}" width="${width}" height="20" fill="${i === 0 ? COLORS[0] : "#94a3b8"}"/>`,
      `<text x="${LEFT + width + 6}" y="${y + 15}">${round(value)}</text>`,
    ];
  });
  return svg(TOP + bars.length * ROW + 12, title, body);
}

/** Lines over named ticks, with a logarithmic axis of values and the name at the end of each line. */
export function linePlot(of: {
  title: string;
  ticks: readonly string[];
  lines: readonly { name: string; values: number[] }[];
}): string {
  const values = of.lines.flatMap((line) => line.values).filter((value) => value > 0);
  const low = Math.log10(Math.min(...values));
  const high = Math.log10(Math.max(...values));
  const bottom = HEIGHT - 36;
  const x = (i: number) => round(60 + (i * (WIDTH - 60 - RIGHT)) / (of.ticks.length - 1));
  const y = (value: number) => round(bottom - ((Math.log10(value) - low) / (high - low || 1)) * (bottom - TOP));
  const decades = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500].filter(
    (value) => Math.log10(value) >= low && Math.log10(value) <= high,
  );
  const grid = decades.flatMap((value) => [
    `<line x1="60" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}" stroke="#e5e7eb"/>`,
    `<text x="52" y="${y(value) + 4}" text-anchor="end">${value}</text>`,
  ]);
  const ticks = of.ticks.map(
    (tick, i) => `<text x="${x(i)}" y="${bottom + 20}" text-anchor="middle">${escaped(tick)}</text>`,
  );
  // Names whose lines end close to each other must not cover each other.
  const ends = of.lines
    .map(({ name, values }, i) => ({ name, i, at: y(values.at(-1) ?? Number.NaN) }))
    .sort((a, b) => a.at - b.at);
  for (const [i, end] of ends.entries()) if (i > 0) end.at = Math.max(end.at, ends[i - 1]!.at + 15);
  const color = (i: number) => COLORS[i % COLORS.length];
  const curves = of.lines.map(({ values }, i) => {
    const points = values.map((value, at) => `${x(at)},${y(value)}`).join(" ");
    return `<polyline points="${points}" fill="none" stroke="${color(i)}" stroke-width="${i === 0 ? 3 : 1.5}"/>`;
  });
  const labels = ends.map(
    ({ name, i, at }) =>
      `<text x="${WIDTH - RIGHT + 6}" y="${at + 4}" style="fill:${color(i)}">${escaped(name)}</text>`,
  );
  return svg(HEIGHT, of.title, [...grid, ...ticks, ...curves, ...labels]);
}
