"""Would a run work on these machines? Facts are gathered on each, and findings made of all of them."""
