# SPDX-License-Identifier: Apache-2.0
"""Names of the graph: one place, so that driver, recorder and readers cannot drift apart. No ROS import here.

Topic            type                     content
/odom            nav_msgs/Odometry        the whole state in one stamped message: x in pose, pitch in
                                          orientation, v in twist.linear.x, pitch rate in
                                          twist.angular.y, yaw rate in twist.angular.z
/imu             sensor_msgs/Imu          as measured
/joint_states    sensor_msgs/JointState   wheels and leg joints as measured; effort of the wheels is the torque the
                                          firmware executed over the step that ends at the stamp
/wheel_torque    sensor_msgs/JointState   what a commander asks for, Nm; stamp of the observation it answers;
                                          frame_id is the commander's interface hash; no effort means "take it back"
/wheel_command   sensor_msgs/JointState   what the driver sent to the firmware after its limits; stamp of the
                                          observation it answers; frame_id is the mode in command
/mode            std_msgs/String          latched: the mode in command and, after a colon, the reason of the last change
/shadow_torque   sensor_msgs/JointState   as /wheel_torque, from a candidate that watches: recorded, never obeyed
/policy          std_msgs/String          latched: JSON, which policy answers on /wheel_torque (file, hash, task)
/interface       std_msgs/String          latched: the interface as canonical JSON
/configuration   std_msgs/String          latched: JSON of robot description, calibration and limits in use
/device_time     sensor_msgs/TimeReference  device time of the frame that /odom, /imu, /joint_states of the same stamp
                                          come from; source is the frame's sequence number, ten digits
/battery         sensor_msgs/BatteryState
/cmd_vel         geometry_msgs/TwistStamped
/cmd_height      std_msgs/Float64         height of the hips above the axle to take up, m
/estop           std_msgs/Bool            true stops the robot, in every state; false does nothing
/joy             sensor_msgs/Joy          a joystick, for joystick_node
/diagnostics     diagnostic_msgs/DiagnosticArray
"""

ODOM = "odom"
IMU = "imu"
JOINT_STATES = "joint_states"
WHEEL_TORQUE = "wheel_torque"
WHEEL_COMMAND = "wheel_command"
MODE = "mode"
INTERFACE = "interface"
CONFIGURATION = "configuration"
DEVICE_TIME = "device_time"
BATTERY = "battery"
CMD_VEL = "cmd_vel"
CMD_HEIGHT = "cmd_height"
ESTOP_TOPIC = "estop"
JOY = "joy"
SHADOW_TORQUE = "shadow_torque"
POLICY = "policy"
DIAGNOSTICS = "diagnostics"

#: Message type of each recorded topic.
TYPES = {
    ODOM: "nav_msgs/msg/Odometry",
    IMU: "sensor_msgs/msg/Imu",
    JOINT_STATES: "sensor_msgs/msg/JointState",
    WHEEL_TORQUE: "sensor_msgs/msg/JointState",
    WHEEL_COMMAND: "sensor_msgs/msg/JointState",
    SHADOW_TORQUE: "sensor_msgs/msg/JointState",
    MODE: "std_msgs/msg/String",
    POLICY: "std_msgs/msg/String",
    INTERFACE: "std_msgs/msg/String",
    CONFIGURATION: "std_msgs/msg/String",
    DEVICE_TIME: "sensor_msgs/msg/TimeReference",
    BATTERY: "sensor_msgs/msg/BatteryState",
    CMD_VEL: "geometry_msgs/msg/TwistStamped",
    CMD_HEIGHT: "std_msgs/msg/Float64",
    ESTOP_TOPIC: "std_msgs/msg/Bool",
    DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray",
}

#: Topics whose last message a late subscriber must still get.
LATCHED = (MODE, INTERFACE, CONFIGURATION, POLICY)

#: Joint names in /joint_states; the wheels come first in /wheel_torque and /wheel_command too.
WHEELS = ("left_wheel", "right_wheel")
LEGS = ("left_thigh", "left_shin", "right_thigh", "right_shin")

#: Services (std_srvs); names are relative to the node that offers them.
ARM = "driver/arm"  # Trigger
DISARM = "driver/disarm"  # Trigger: zero torque
ESTOP = "driver/estop"  # Trigger: zero torque, latched until disarm
TORQUE_MODE = "driver/torque_mode"  # SetBool: true gives command to /wheel_torque, false back to balance
STAND_UP = "driver/stand_up"  # Trigger: legs to the standing posture
SIT_DOWN = "driver/sit_down"  # Trigger: legs to the lowest posture
SWAP = "swap"  # Trigger, behind the policy node's name: its parameter `candidate` takes the place of its policy
START_EPISODE = "recorder/start_episode"  # Trigger
STOP_EPISODE = "recorder/stop_episode"  # Trigger
#: These three are about the running episode, or else the one before.
DISCARD_EPISODE = "recorder/discard_episode"  # Trigger: delete it
LABEL_SUCCESS = "recorder/success"  # Trigger
LABEL_FALL = "recorder/fall"  # Trigger

#: Modes in command, as in frame_id of /wheel_command and in /mode.
DISARMED = "disarmed"
BALANCE = "balance"
TORQUE = "torque"
#: A limit was hit: the driver balances on the spot and takes no command but disarm and e-stop.
HOLD = "hold"
FAULT = "fault"
#: How the reason of a fault begins that is a fall.
FALLEN = "fallen"
#: Modes in which torque reaches the motors.
ARMED = (BALANCE, TORQUE, HOLD)
