"""The objective of a micro-batch, as `foretoken train` defines it."""

import torch
import torch.nn.functional as F


def crop(ids, counts):
    """Without the columns behind the last target: nothing that counts depends on them."""
    used = counts.any(0).nonzero()
    end = int(used[-1]) + 1 if len(used) else 1
    return ids[:, :end], counts[:, :end]


def rows_of(counts, offset):
    """Indices of the rows whose target, `offset` places ahead, counts; of the [sequences * length] rows."""
    mask = torch.zeros_like(counts)
    mask[:, : counts.shape[1] - offset] = counts[:, offset:]
    return mask.flatten().nonzero().squeeze(1)


def head_losses(model, ids, counts, detach=False, soft=False):
    """For each head the losses of its counted targets. `detach`: heads other than the backbone's own do not reach the LoRA.

    `soft`: heads beyond the next token learn the model's own distribution one step before their target. Losses are those of the
    tokens all the same.
    """
    ids, counts = crop(ids, counts)
    reach_backbone = torch.is_grad_enabled() and model.lora is not None
    with torch.set_grad_enabled(reach_backbone):
        z = model.streams(ids, last=False)
    apart = [x.detach() for x in z] if detach else z
    found = []
    for index, head in enumerate(model.heads):
        own = head.get("backbone_last_layer", False)
        picks = rows_of(counts, head["offset"])
        targets = ids.flatten()[picks + head["offset"]]
        log_p = model.logits(model.head(index, z if own else apart, ids, picks)).log_softmax(-1)
        loss = F.nll_loss(log_p, targets, reduction="none")
        if soft and head["offset"] > 1:
            with torch.no_grad():
                labels = model.logits(model.next(z, picks + head["offset"] - 1)).softmax(-1)
            learnt = -(labels * log_p).sum(-1)
            loss = loss.detach() + learnt - learnt.detach()
        found.append(loss)
    return found


def objective(losses, balance):
    """The sum of the heads' means; with `balance` each is rescaled to the root mean square of the first."""
    means = [x.mean() if len(x) else x.sum() for x in losses]
    if not balance:
        return sum(means)
    sizes = [x.detach().pow(2).mean().sqrt() for x in losses]
    return sum(mean * (sizes[0] / size if len(x) else 0.0) for mean, size, x in zip(means, sizes, losses))
