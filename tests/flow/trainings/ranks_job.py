"""One of two processes that train together, over gloo: sharded by FSDP2, copied by DDP, and Lightning's DDP."""

import os

import lightning as L
import torch
import torch.distributed as dist
from genlock.coordinator.hooks import PublishCallback, Publishing
from served import counted, done, quiet
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from train_lightning import DigitsNet, LitDigits, data


def steps(net, count):
    """Trains on what is this process's part of the data; the loss, which another process has not."""
    pixels, digits = (part[dist.get_rank() :: 2] for part in data().tensors)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(count):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(pixels), digits)
        loss.backward()
        optimizer.step()
    return loss


def sharded():
    """Each process has half of every weight. The losses differ, and so would the decisions; the first process decides for both."""
    torch.manual_seed(1)
    net = DigitsNet()
    fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
    golden = {"golden": data().tensors[0][:4], "factory": DigitsNet}
    with Publishing("fsdp", monitor="loss", **golden) as publishing:
        for count, claim in ((20, 0.0), (1, 1.0), (20, -1.0)):
            worse = claim if dist.get_rank() == 0 else -claim
            steps(net, count)
            publishing.after_save(net, {"loss": worse})
            publishing.wait()
    return counted(publishing)


def copied():
    torch.manual_seed(1)
    net = torch.nn.parallel.DistributedDataParallel(DigitsNet())
    with Publishing("ddp", golden=data().tensors[0][:4]) as publishing:
        loss = steps(net, 20)
        publishing.after_save(net, {"loss": loss})
    return counted(publishing)


def lightning():
    callback = PublishCallback("lit", part="net", golden=data().tensors[0][:4])
    trainer = L.Trainer(
        max_epochs=2,
        limit_train_batches=5,
        limit_val_batches=1,
        callbacks=[callback],
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir="lit",
    )
    trainer.fit(LitDigits(), DataLoader(data(), 64), DataLoader(data(), 256))
    return counted(callback.publishing)


if __name__ == "__main__":
    quiet(".*LeafSpec.*", ".*does not have many workers.*", ".*log_every_n_steps.*", ".*sync_dist.*")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {"fsdp": sharded(), "ddp": copied()}
    dist.barrier()
    dist.destroy_process_group()
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
    done(**found, lit=lightning())
