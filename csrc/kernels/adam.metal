// Adam for autograd, a thread a number: one group's parameters.
const uint i = thread_position_in_grid.x;
if (i < uint(params_shape[0])) {
    const Moved to = adam_step(params[i], m[i], v[i], grads[i], settings[0], settings[1]);
    new_params[i] = to.p;
    new_m[i] = to.m;
    new_v[i] = to.v;
}
