// A form that changes what is served asks first. {name} in its question is the value of that field. A form with a field
// `force` has another question for when that is filled.
document.addEventListener("submit", (event) => {
  const values = new FormData(event.target);
  const { question: usual, forced } = event.target.dataset;
  const question = values.get("force") ? forced : usual;
  if (!question) return;
  if (!confirm(question.replace(/{(\w+)}/g, (_, name) => values.get(name) ?? ""))) event.preventDefault();
});
