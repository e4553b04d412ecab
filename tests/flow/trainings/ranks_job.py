"""One of two processes that train together, over gloo: sharded by FSDP2, copied by DDP, and Lightning's DDP. The first of them then trains
on by itself: an import of Lightning takes longer than all of its trainings."""

import os
from datetime import timedelta

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


class Reduced(LitDigits):
    """Logs what has to be reduced over both processes, which is done when it is read, and saves before anybody has read it."""

    def training_step(self, batch):
        loss = super().training_step(batch)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_train_epoch_end(self):
        self.trainer.save_checkpoint(f"lit/epoch-{self.current_epoch}.ckpt")


def lightning():
    callback = PublishCallback("lit", part="net", golden=data().tensors[0][:4])
    trainer = L.Trainer(
        max_epochs=2,
        limit_train_batches=5,
        limit_val_batches=1,
        callbacks=[callback],
        accelerator="cpu",
        devices=2,
        strategy=L.pytorch.strategies.DDPStrategy(timeout=timedelta(seconds=30)),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir="lit",
    )
    trainer.fit(Reduced(), DataLoader(data(), 64), DataLoader(data(), 256))
    dist.destroy_process_group()
    return counted(callback.publishing)


def alone():
    """The job of one process; its libraries look for the others in the environment."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID"):
        del os.environ[name]
    import lightning_job  # loads the other Lightning too, which the second process has no use for

    return lightning_job.alone()


if __name__ == "__main__":
    quiet(
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*exists and is not empty",
        ".*log_every_n_steps.*",
        ".*callback.*override",
        ".*sync_dist.*",
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {"fsdp": sharded(), "ddp": copied()}
    dist.barrier()
    dist.destroy_process_group()
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
    found["lit"] = lightning()
    done(**found, **(alone() if os.environ["RANK"] == "0" else {}))
