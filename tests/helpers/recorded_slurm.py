"""What Slurm 22.05 printed of a small cluster."""

PARTITIONS = """\
PartitionName=batch AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES QoS=N/A \
MaxNodes=UNLIMITED MaxTime=01:00:00 MinNodes=0 Nodes=p[1-2] State=UP TotalCPUs=8 TotalNodes=2 \
TRES=cpu=8,mem=32000M,node=2,billing=8
PartitionName=long AllowGroups=ALL AllowAccounts=chem,bio AllowQos=ALL Default=NO QoS=N/A \
MaxNodes=1 MaxTime=7-00:00:00 MinNodes=0 Nodes=p1 State=DOWN TotalCPUs=4 TotalNodes=1
PartitionName=shut AllowAccounts=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED Nodes= State=UP
"""
SINFO = """\
batch|p1|4|16000|gpu:a100:2(S:0-1),gpu:v100:1,shard:8|fast,avx|mixed
long|p1|4|16000|gpu:a100:2(S:0-1),gpu:v100:1,shard:8|fast,avx|mixed
batch|p2|8+|32768+|gpu:2|(null)|idle
batch|p3|8|32768|(null)|(null)|down*
"""
