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
