"""A second run of the cloud on the same data folder goes on where the first stopped."""

import pytest

from camsdk.cli.demo.clip import cut_clip
from camsdk.cli.demo.journey import read_rules
from support.stack import FLEET, Stack, eventually


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_second_run_of_the_cloud_continues(tmp_path, vtest_path, int8_detector):
    clip = cut_clip(vtest_path, tmp_path / "clip.avi", 8)
    with Stack(tmp_path) as stack:
        stack.client.create_fleet(FLEET)
        stack.client.apply_rules(FLEET, read_rules(None))
        model = stack.push(*int8_detector)
        stack.enrol("first")
        stack.start_agent("first", clip)
        stack.wait_connected("first")
        rollout = stack.client.deploy(model.reference, fleet=FLEET)
        rollout.wait(timeout_s=90)
        stack.agents["first"].wait(90)
        eventually(lambda: stack.client.status().bus_depth == 0, 30, "analysis")
        events = stack.client.list_events(fleet=FLEET).events
        hits = stack.client.search(event=next(e for e in events if e.track_id > 0)).hits

        stack.cloud.stop()
        stack.start_cloud()

        assert stack.client.list_events(fleet=FLEET).events == events
        assert stack.client.search(event=next(e for e in events if e.track_id > 0)).hits == hits
        assert stack.client.rollout(rollout.rollout_id).status == rollout.status
        assert stack.client.get_model(model.reference) == model
        # A device that enrols now converges to the fleet's release by itself.
        stack.enrol("second")
        stack.start_agent("second", clip)
        stack.agents["second"].wait(90)
        assert stack.client.get_device("second").reported.running_digest == model.digest
        second = stack.client.list_events(device="second").events
        assert [e.frame_index for e in second] == [e.frame_index for e in events]
