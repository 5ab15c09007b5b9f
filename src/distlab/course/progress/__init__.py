"""How far each learner is: what a module asks for, what was released of it, and who may see that."""
