// A small accessibility audit: names of controls, texts of pictures, labels of fields, headings, contrast.
() => {
  const problems = [];
  const rgb = text => (text.match(/[\d.]+/g) || []).map(Number);
  const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const bright = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const nameOf = node => (node.getAttribute("aria-label") || node.textContent || node.title).trim();
  const shown = node => node.getClientRects().length > 0;
  for (const node of document.querySelectorAll("button, a[href], [role=img], [role=group], section"))
    if (shown(node) && !nameOf(node)) problems.push(`no name: ${node.outerHTML.slice(0, 80)}`);
  for (const node of document.querySelectorAll("input"))
    if (!node.labels.length) problems.push(`no label: ${node.outerHTML.slice(0, 80)}`);
  for (const node of document.querySelectorAll("img"))
    if (!node.hasAttribute("alt")) problems.push("a picture without alt");
  const ids = [...document.querySelectorAll("[id]")].map(node => node.id);
  if (new Set(ids).size !== ids.length) problems.push("an id twice");
  if (document.querySelectorAll("h1").length !== 1) problems.push("not one h1");
  if (!document.documentElement.lang || !document.title) problems.push("no language or title");
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !shown(node) || node.closest("script, style, :disabled, .away")) continue;
    const [a, b] = [bright(rgb(getComputedStyle(node).color)), bright(behind(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) problems.push(`contrast ${contrast.toFixed(2)}: ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return problems;
}
