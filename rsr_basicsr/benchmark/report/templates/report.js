(() => {
  'use strict';

  // The switch selects the visible eps.
  const show = (eps) => document.querySelectorAll('[data-eps]').forEach((part) => { part.hidden = part.dataset.eps !== eps; });
  document.querySelectorAll('.switch input').forEach((choice) => {
    choice.addEventListener('change', () => show(choice.value));
    if (choice.checked) show(choice.value);
  });

  // The line between two outputs.
  document.querySelectorAll('.stage').forEach((stage) => {
    const range = stage.querySelector('input');
    range.addEventListener('input', () => stage.style.setProperty('--at', `${range.value}%`));
  });

  // Any two images of an article: first the outputs of two networks under the strongest attack.
  document.querySelectorAll('.pair').forEach((pair) => {
    const part = (name) => pair.querySelector(`.${name}`);
    const stage = part('stage');
    const sources = [...pair.closest('article').querySelectorAll('[data-image]')];
    if (sources.length < 2) { pair.hidden = true; return; }
    const strongest = (label) => sources.filter((source) => source.dataset.image.startsWith(`${label}, eps `)).pop();
    ['over', 'under'].forEach((layer) => stage.prepend(Object.assign(new Image(), { className: layer })));
    const [first, best] = pair.dataset.first.split('\n').map(strongest);
    const right = best ?? sources[1];
    const chosen = { left: first && first !== right ? first : sources.find((source) => source !== right), right };
    [['left', 'under'], ['right', 'over']].forEach(([side, layer]) => {
      const list = part(side);
      list.append(...sources.map((source) => new Option(source.dataset.image)));
      list.selectedIndex = sources.indexOf(chosen[side]);
      const put = () => {
        const source = sources[list.selectedIndex];
        part(layer).src = source.src;
        part(layer).alt = source.alt;
        part(layer).classList.toggle('coarse', Boolean(source.closest('.pixels')));
      };
      list.addEventListener('change', put);
      put();
    });
    // The larger of the two gives the size: an input is as wide as an output.
    const mode = part('mode');
    mode.addEventListener('change', () => stage.classList.toggle('difference', mode.value === 'difference'));
    part('zoom').addEventListener('change', () => { stage.style.width = `${100 * part('zoom').value}%`; });
  });

  // A click on a heading sorts the rows, first ascending, then descending; equal values keep their order, missing ones go last.
  const compare = (kind) => kind === 'number' ? (a, b) => a - b
    : (a, b) => a.localeCompare(b, undefined, { numeric: true });
  const sort = (heading) => {
    const index = heading.cellIndex;
    const body = heading.closest('table').tBodies[0];
    const sign = heading.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
    const order = compare(heading.dataset.sort);
    const value = (row) => row.cells[index].dataset.value;
    const rows = [...body.rows];
    const filled = rows.filter((row) => value(row) !== undefined).sort((a, b) => sign * order(value(a), value(b)));
    body.append(...filled, ...rows.filter((row) => value(row) === undefined));
    heading.parentNode.querySelectorAll('[aria-sort]').forEach((other) => other.removeAttribute('aria-sort'));
    heading.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending');
  };
  document.querySelectorAll('th[data-sort] button').forEach((button) => {
    button.addEventListener('click', () => sort(button.closest('th')));
  });
})();
