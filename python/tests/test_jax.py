"""Scripts with JAX, optax and flax on the chain."""

import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

TRAIN = """
    import jax, optax
    import jax.numpy as jnp
    import numpy as np
    import vadpipe

    run = vadpipe.chain(epochs=4)
    key = jax.random.key(run.seed)
    params = {"layers": [{"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}], "scale": jnp.ones((), jnp.bfloat16)}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 100)))
    opt_state = tx.init(params)
    params, opt_state, key = run.restore(params=params, opt_state=opt_state, key=key)

    @jax.jit
    def update(params, opt_state, inputs):
        def loss_of(params):
            layer = params["layers"][0]
            return jnp.mean((inputs @ layer["w"] * params["scale"] + layer["b"] - 0.3) ** 2)
        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for epoch in run.epochs():
        key, own = jax.random.split(key)
        params, opt_state, loss = update(params, opt_state, jax.random.normal(own, (8, 3)))
        run.update(params=params, opt_state=opt_state, key=key)
        run.log(loss=loss)
"""


def test_trees_and_keys_are_restored(project):
    project.write("train.py", TRAIN)
    project.pipeline(epoch="")
    project.run(4)
    project.run(6)
    project.run(6, cache="other")
    assert project.result(6)["digest"] == project.result(6, cache="other")["digest"]
    project.run(4)
    found = project.verified()
    assert found["same"] and found["program"]["incomplete"] is None
    project.by_hand()


def test_tree_that_is_not_updated_is_explained(project):
    log = "key=key)\n        run.log"
    project.write("train.py", TRAIN.replace(f"opt_state=opt_state, {log}", log))
    assert "call run.update(opt_state=opt_state) in each epoch" in project.by_hand(expect=1)


def test_leaves_keep_their_types(tmp_path):
    import jax.numpy as jnp

    from vadpipe import Error, _tree

    tree = {"weak": jnp.asarray(1.5), "whole": jnp.arange(3), "half": jnp.ones(2, jnp.bfloat16), "plain": 3,
            "key": jax.random.key(1), "old": jax.random.PRNGKey(2)}  # fmt: skip
    assert tree["weak"].weak_type
    _tree.save(tmp_path, "tree", tree)
    empty = {**jax.tree.map(lambda leaf: leaf, tree), "plain": 0}
    found = _tree.load(tmp_path, "tree", empty)
    assert found["weak"].weak_type and found["plain"] == 3
    for name in ("weak", "whole", "half", "old"):
        assert found[name].dtype == tree[name].dtype and (found[name] == tree[name]).all()
    assert (jax.random.key_data(found["key"]) == jax.random.key_data(tree["key"])).all()
    with pytest.raises(Error, match="other leaves than its state: more"):
        _tree.load(tmp_path, "tree", {**tree, "more": jnp.ones(1)})
    with pytest.raises(Error, match=r"`whole` is of shape \(4,\) and type int32, but its state is of shape \(3,\)"):
        _tree.load(tmp_path, "tree", {**tree, "whole": jnp.arange(4)})


FLAX = """
    import jax, optax
    import jax.numpy as jnp
    from flax import nnx
    import vadpipe

    run = vadpipe.chain(epochs=4)
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.drop = nnx.Linear(3, 4, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)
            self.norm, self.last = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)
        def __call__(self, inputs):
            return self.last(self.drop(self.norm(self.first(inputs))))
    rngs = nnx.Rngs(run.seed)
    model = Net(rngs)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    run.restore(model=model, optimizer=optimizer)
    inputs = jax.random.normal(jax.random.key(0), (16, 3))

    @nnx.jit
    def step(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda model: jnp.mean((model(inputs) - 1) ** 2))(model)
        optimizer.update(model, gradients)
        return loss

    for epoch in run.epochs():
        run.log(loss=step(model, optimizer))
"""


def test_modules_of_flax_are_restored_in_place(project):
    pytest.importorskip("flax.nnx")
    project.write("train.py", FLAX)
    project.pipeline(epoch="")
    project.run(4)
    project.run(6)
    project.run(6, cache="other")
    assert project.result(6)["digest"] == project.result(6, cache="other")["digest"]
    project.run(4)
    found = project.verified()
    assert found["same"] and found["program"]["incomplete"] is None


def test_train_state_of_flax_is_a_tree(tmp_path):
    train_state = pytest.importorskip("flax.training.train_state")
    import jax.numpy as jnp

    from vadpipe import _tree

    def make(value):
        params = {"w": jnp.full(2, value)}
        return train_state.TrainState.create(apply_fn=len, params=params, tx=optax.adam(0.1))

    state = make(1.0)
    for _ in range(2):
        state = state.apply_gradients(grads={"w": jnp.ones(2)})
    assert not _tree.changes_in_place(state)
    _tree.save(tmp_path, "state", state)
    found = _tree.load(tmp_path, "state", make(0.0))
    assert found.step == 2 and found.apply_fn is len
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(found.opt_state), jax.tree.leaves(state.opt_state)))
