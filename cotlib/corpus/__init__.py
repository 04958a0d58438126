"""The texts: items, questions, traces, the rules they obey and the audit that measures them."""
