"""OpenAI's API: requests, parameters, answers, and the document that describes them."""
