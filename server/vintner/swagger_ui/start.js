// Shows the server's own description. `validatorUrl: null`: nothing is asked of any other host.
SwaggerUIBundle({
  url: document.getElementById("page").dataset.document,
  dom_id: "#page",
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null,
  tryItOutEnabled: true,
  defaultModelsExpandDepth: 0,
});
