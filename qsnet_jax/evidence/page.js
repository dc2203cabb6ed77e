'use strict';
const key = text => {
  const number = text.match(/^[+-]?[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?(?![0-9a-z-])/i);  // no dates, no hashes
  return number ? parseFloat(number[0]) : null;
};
const sort = (table, at, falling) => {
  const heads = table.tHead.rows[0].cells, body = table.tBodies[0], rows = [...body.rows];
  for (const head of heads) head.setAttribute('aria-sort', 'none');
  heads[at].setAttribute('aria-sort', falling ? 'descending' : 'ascending');
  const compare = (a, b) => {
    const [x, y] = [a, b].map(row => row.cells[at].textContent.trim()), [m, n] = [key(x), key(y)];
    if ((m === null) !== (n === null)) return m === null ? 1 : -1;  // what has no number comes last, either way
    return (falling ? -1 : 1) * (m === null ? x.localeCompare(y) : m - n);
  };
  rows.sort(compare);
  body.append(...rows);
};
for (const details of document.querySelectorAll('details')) {
  const table = details.querySelector('table'), status = details.querySelector('[role=status]');
  const [field, select] = [details.querySelector('input'), details.querySelector('select')];
  for (const button of table.querySelectorAll('th button'))
    button.addEventListener('click', () => {
      const head = button.parentNode;
      sort(table, head.cellIndex, head.getAttribute('aria-sort') === 'ascending');
    });
  select.addEventListener('change', () => { if (select.selectedIndex) sort(table, select.selectedIndex - 1, false); });
  field.addEventListener('input', () => {
    const words = field.value.toLowerCase().split(/\s+/), rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
    status.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
  });
}
for (const input of document.querySelectorAll('.slider input'))
  input.addEventListener('input', () => input.parentNode.style.setProperty('--at', input.value + '%'));
const dialog = document.querySelector('dialog'), large = dialog.querySelector('img');
const enlarge = image => { large.src = image.src; large.alt = image.alt; dialog.showModal(); };
for (const button of document.querySelectorAll('.zoom'))
  button.addEventListener('click', () => enlarge(button.firstElementChild));
for (const button of document.querySelectorAll('.zoom-pair'))
  button.addEventListener('click', () => enlarge(button.closest('figure').querySelector('img')));
dialog.addEventListener('click', () => dialog.close());
