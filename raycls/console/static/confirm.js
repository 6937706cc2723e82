// A form that changes what is served asks first. {name} in its question is the value of that field.
document.addEventListener("submit", (event) => {
  const { question } = event.target.dataset;
  if (!question) return;
  const values = new FormData(event.target);
  if (!confirm(question.replace(/{(\w+)}/g, (_, name) => values.get(name) ?? ""))) event.preventDefault();
});
