// Elements without HTML strings.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element; functions among the properties are listeners, `style` goes through the CSSOM, which the CSP allows. */
export const html = (tag, properties, ...children) => build(document.createElement(tag), properties, children);

/** The same in SVG. */
export const svg = (tag, properties, ...children) => build(document.createElementNS(SVG, tag), properties, children);

function build(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** <dt> and <dd> for every [term, description]; what is null is left out. */
export const terms = (pairs) =>
  pairs.filter(([, value]) => value !== null && value !== "").map(([term, value]) => [html("dt", {}, term), html("dd", {}, value)]);

/** The same with every pair in a <div>, for a grid of them. */
export const grouped = (pairs) => terms(pairs).map((pair) => html("div", {}, pair));

/** A table that scrolls by itself on a narrow screen. */
export function table(caption, heads, rows) {
  const head = html("tr", {}, heads.map((text) => html("th", { scope: "col" }, text)));
  const body = rows.map((row) => html("tr", {}, row.map((value) => html("td", {}, value))));
  return html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    html("table", {}, html("caption", {}, caption), html("thead", {}, head), html("tbody", {}, body)));
}
