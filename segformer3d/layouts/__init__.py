"""How datasets lie on disk: one module for each family of layouts; `segformer3d.cases` tries them one after another."""
