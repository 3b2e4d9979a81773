// The switch of strengths shows one eps at a time; the sliders borrow the outputs shown instead of carrying copies.
(() => {
  'use strict';
  const outputOf = (article, network) => [...article.querySelectorAll('img[data-part]')].find(
    (image) => image.dataset.part === network && !image.closest('figure').hidden);

  const fill = (slider) => {
    const article = slider.closest('article');
    const outputs = [slider.dataset.right, slider.dataset.left].map((network) => outputOf(article, network));
    slider.hidden = !outputs.every(Boolean);
    if (slider.hidden) return;
    slider.querySelectorAll('img').forEach((image, i) => {
      image.src = outputs[i].src;
      image.alt = outputs[i].alt;
    });
  };

  const show = (eps) => {
    document.querySelectorAll('[data-eps]').forEach((part) => { part.hidden = part.dataset.eps !== eps; });
    document.querySelectorAll('.compare').forEach(fill);
  };

  document.querySelectorAll('.compare').forEach((slider) => {
    const stage = slider.querySelector('.stage');
    const range = slider.querySelector('input');
    range.addEventListener('input', () => stage.style.setProperty('--at', `${range.value}%`));
  });
  document.querySelectorAll('.switch input').forEach((choice) => {
    choice.addEventListener('change', () => show(choice.value));
    if (choice.checked) show(choice.value);
  });
})();
