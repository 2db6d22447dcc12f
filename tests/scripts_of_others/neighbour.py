"""A module beside the scripts, as scripts have them."""

GOOD = ("a warm and clever film", "funny moving and well played", "the best story in years", "i loved every minute")
BAD = ("a cold and empty film", "dull slow and badly played", "the worst story in years", "i hated every minute")
SENTENCES = [(sentence, label) for label, group in enumerate((BAD, GOOD)) for sentence in group] * 8
