"""The text files of a KITTI raw recording: calibration, timestamps, IMU/GPS values."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from mde.data.scenes import vehicle
from mde.data.scenes.streets import PERIOD_S, CarState

_ORIGIN_LAT, _ORIGIN_LON, _ORIGIN_ALT_M = 49.0, 8.4, 115.0
_EARTH_RADIUS_M = 6378137.0
_SENSOR_DELAY_S = {
    "image_02/timestamps.txt": 0.0,
    "image_03/timestamps.txt": -0.0006,
    "velodyne_points/timestamps_start.txt": -0.062,
    "velodyne_points/timestamps.txt": -0.0103,
    "velodyne_points/timestamps_end.txt": 0.0414,
    "oxts/timestamps.txt": 0.0021,
}
_OXTS_FIELDS = {
    "lat": "latitude (deg)", "lon": "longitude (deg)", "alt": "altitude (m)",
    "roll": "roll angle (rad)", "pitch": "pitch angle (rad)",
    "yaw": "heading (rad), 0 = east, counter-clockwise",
    "vn": "velocity north (m/s)", "ve": "velocity east (m/s)", "vf": "velocity forward (m/s)",
    "vl": "velocity left (m/s)", "vu": "velocity up (m/s)",
    "ax": "acceleration x (m/s^2)", "ay": "acceleration y (m/s^2)", "az": "acceleration z (m/s^2)",
    "af": "acceleration forward (m/s^2)", "al": "acceleration left (m/s^2)",
    "au": "acceleration up (m/s^2)",
    "wx": "angular rate x (rad/s)", "wy": "angular rate y (rad/s)", "wz": "angular rate z (rad/s)",
    "wf": "angular rate forward (rad/s)", "wl": "angular rate left (rad/s)",
    "wu": "angular rate up (rad/s)",
    "pos_accuracy": "position accuracy (m)", "vel_accuracy": "velocity accuracy (m/s)",
    "navstat": "navigation status", "numsats": "satellites tracked", "posmode": "position mode",
    "velmode": "velocity mode", "orimode": "orientation mode",
}  # fmt: skip
OXTS_FORMAT = "".join(f"{name + ':':<14} {meaning}\n" for name, meaning in _OXTS_FIELDS.items())


def calibration_files() -> dict[str, str]:
    """Name and text of the three calibration files of the recording day."""
    return {
        "calib_cam_to_cam.txt": vehicle.calibration_text(
            "09-Jan-2012 13:57:47", vehicle.cam_to_cam()
        ),
        "calib_velo_to_cam.txt": vehicle.calibration_text(
            "15-Mar-2012 11:37:16", vehicle.VELO_TO_CAM
        ),
        "calib_imu_to_velo.txt": vehicle.calibration_text(
            "25-May-2012 16:47:16", vehicle.IMU_TO_VELO
        ),
    }


def timestamp_files(seed: int, index: int, num_frames: int) -> dict[str, str]:
    """Name and text of every sensor's timestamps, one line a frame, about ten a second."""
    rng = np.random.default_rng([seed, 5, index])
    start = datetime(2011, 9, 26, 12, 10 * (index % 6), 3)
    files = {}
    for name, delay in _SENSOR_DELAY_S.items():
        seconds = np.arange(num_frames) * PERIOD_S + delay + rng.uniform(0, 2e-5, num_frames) + 1
        nanoseconds = (seconds * 1e9).astype(int).tolist()
        files[name] = "".join(
            f"{start + timedelta(seconds=t // 10**9):%Y-%m-%d %H:%M:%S}.{t % 10**9:09d}\n"
            for t in nanoseconds
        )
    return files


def oxts_line(state: CarState) -> str:
    """The 30 values of one frame; their Mercator pose (scale cos(lat0)) is the car's."""
    x, y, z = state.T_world_imu[:3, 3]
    scale = np.cos(np.radians(_ORIGIN_LAT)) * _EARTH_RADIUS_M
    north = scale * np.log(np.tan(np.radians(90 + _ORIGIN_LAT) / 2)) + y
    lat = 2 * np.degrees(np.arctan(np.exp(north / scale))) - 90
    lon = _ORIGIN_LON + np.degrees(x / scale)
    yaw = float(np.arctan2(np.sin(state.yaw), np.cos(state.yaw)))
    turn, inward = state.yaw_rate, state.speed * state.yaw_rate
    values = [lat, lon, _ORIGIN_ALT_M + z, 0.0, 0.0, yaw]
    values += [state.speed * np.sin(yaw), state.speed * np.cos(yaw), state.speed, 0.0, 0.0]
    values += [0.0, inward, 9.81] * 2 + [0.0, 0.0, turn] * 2 + [0.05, 0.02]
    return " ".join([*(f"{v:.14g}" for v in values), "4", "10", "4", "4", "4"]) + "\n"
